// The lines and bars. Each chart is also a table, for whoever cannot see it or wants the numbers.

import { byId, fill, say, table } from './elements.js'

/**
 * @typedef {{ label: string, colour: string, values: (number | null)[], kind?: 'bar' | 'line' | 'points' }} Series
 * @typedef {object} Drawing
 * @property {string} caption
 * @property {string} summary what somebody who cannot see it should know of it
 * @property {string[]} labels
 * @property {string[]} rows the same days in full, for the table and the tip
 * @property {Series[]} series
 * @property {(value: number | null) => string} say
 * @property {(value: number) => string} [sayOnAxis]
 * @property {boolean} [isStacked]
 * @property {boolean} [isLogarithmic]
 */

/** @type {Map<string, import('chart.js').Chart>} */
const charts = new Map()
/** @type {Map<string, Drawing>} */
const drawn = new Map()

/** Seconds that people think in. */
const STEPS = [1, 10, 60, 600, 3600, 36_000]

/** @param {string} id of a figure in the page @param {Drawing} drawing */
export function draw(id, drawing) {
  drawn.set(id, drawing)
  const canvas = byId(`${id}-canvas`, HTMLCanvasElement)
  canvas.setAttribute('aria-label', `${drawing.caption}. ${drawing.summary}`)
  fill(
    `${id}-table`,
    table(
      drawing.caption,
      [{ title: 'Dia', isNumber: false }, ...drawing.series.map(({ label }) => ({ title: label }))],
      drawing.rows.map((row, index) => [row, ...drawing.series.map(({ values }) => drawing.say(values[index] ?? null))])
        .toReversed(),
    ),
  )
  // An axis without anything on it is no picture.
  const isEmpty = drawing.series.every(({ values }) => values.every((value) => value === null || value === 0))
  canvas.hidden = isEmpty
  say(`${id}-none`, isEmpty ? 'Nada neste período.' : '')
  const { data, options } = configuration(drawing)
  const chart = charts.get(id)
  if (chart === undefined) {
    charts.set(id, new Chart(canvas, { type: 'bar', data, options }))
    return
  }
  chart.data = data
  chart.options = options
  chart.update('none')
}

/** Canvases do not follow the style sheet by themselves. */
matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
  for (const [id, drawing] of drawn) draw(id, drawing)
})

/**
 * @param {Drawing} drawing
 * @returns {{ data: import('chart.js').ChartData<'bar'>, options: import('chart.js').ChartOptions<'bar'> }}
 */
function configuration({ labels, rows, series, say, sayOnAxis = say, isStacked = false, isLogarithmic = false }) {
  const style = getComputedStyle(document.documentElement)
  const colour = (/** @type {string} */ name) => style.getPropertyValue(`--${name}`).trim()
  const font = { family: style.fontFamily, size: 12 }
  const ticks = { color: colour('soft'), font }
  const dataset = (/** @type {Series} */ { label, colour: name, values, kind = 'bar' }) => ({
    type: kind === 'bar' ? 'bar' : 'line',
    label,
    data: values,
    backgroundColor: colour(name),
    borderColor: colour(name),
    ...(kind === 'points' ? { showLine: false, pointRadius: 3 } : {}),
    ...(kind === 'line'
      ? { borderWidth: 2, pointRadius: labels.length > 40 ? 0 : 2, tension: .25, spanGaps: true }
      : {}),
    ...(kind === 'bar'
      ? { borderWidth: 0, borderRadius: 2, maxBarThickness: 26, categoryPercentage: .82, barPercentage: 1 }
      : {}),
  })
  return {
    // Chart.js types a mixture of bars and lines as neither.
    data: /** @type {import('chart.js').ChartData<'bar'>} */ (/** @type {unknown} */ ({
      labels,
      datasets: series.map(dataset),
    })),
    options: {
      animation: false,
      responsive: true,
      maintainAspectRatio: false,
      interaction: { mode: 'index', intersect: false },
      scales: {
        x: {
          stacked: isStacked,
          border: { color: colour('line') },
          grid: { display: false },
          ticks: { ...ticks, maxRotation: 0, autoSkipPadding: 14 },
        },
        y: {
          type: isLogarithmic ? 'logarithmic' : 'linear',
          stacked: isStacked,
          beginAtZero: true,
          border: { display: false },
          grid: { color: colour('line') },
          ticks: {
            ...ticks,
            maxTicksLimit: 6,
            ...(isLogarithmic ? {} : { precision: 0 }),
            callback: (value) => sayOnAxis(Number(value)),
          },
          ...(isLogarithmic
            ? {
              min: 1,
              afterBuildTicks: (/** @type {import('chart.js').Scale} */ axis) => {
                axis.ticks = STEPS.filter((step) => step <= Math.max(axis.max, 60)).map((value) => ({ value }))
              },
            }
            : {}),
        },
      },
      plugins: {
        legend: {
          display: series.length > 1,
          align: 'start',
          labels: { color: colour('ink'), font, boxWidth: 12, boxHeight: 12, useBorderRadius: true, borderRadius: 3 },
        },
        tooltip: {
          backgroundColor: colour('ink'),
          titleColor: colour('card'),
          bodyColor: colour('card'),
          titleFont: font,
          bodyFont: font,
          padding: 10,
          boxPadding: 4,
          callbacks: {
            title: ([item]) => rows[item?.dataIndex ?? 0] ?? '',
            label: ({ dataset: { label }, raw }) => `${label}: ${say(typeof raw === 'number' ? raw : null)}`,
          },
        },
      },
    },
  }
}
