// A browser for tests of pages: the machine's own Chromium. playwright-core drives it, and brings none.

import { existsSync } from 'node:fs'
import { type Browser, chromium } from 'playwright-core'

const PLACES = [
  '/usr/bin/chromium',
  '/usr/bin/chromium-browser',
  '/usr/bin/google-chrome',
  '/Applications/Google Chrome.app/Contents/MacOS/Google Chrome',
  '/Applications/Chromium.app/Contents/MacOS/Chromium',
]

export async function aBrowser(): Promise<Browser> {
  const executablePath = process.env.BALCAO_CHROMIUM || PLACES.find(existsSync)
  if (executablePath === undefined) {
    throw new Error('There is no Chromium here: apt-get install chromium, or let BALCAO_CHROMIUM name one.')
  }
  // Chromium's sandbox refuses root, as which CI runs.
  return await chromium.launch({ executablePath, chromiumSandbox: process.getuid?.() !== 0 })
}

/** What of a page's visible text is too faint for WCAG AA, with its contrast; to be run in the page. */
export function faintTexts(): string[] {
  const context = document.createElement('canvas').getContext('2d', { willReadFrequently: true })
  if (context === null) throw new Error('No canvas')
  const rgba = (colour: string, under: number[]): number[] => {
    context.clearRect(0, 0, 1, 1)
    context.fillStyle = `rgb(${under.join()})`
    context.fillRect(0, 0, 1, 1)
    context.fillStyle = colour
    context.fillRect(0, 0, 1, 1)
    return [...context.getImageData(0, 0, 1, 1).data].slice(0, 3)
  }
  const ground = (node: Element | null): number[] =>
    node === null ? [255, 255, 255] : rgba(getComputedStyle(node).backgroundColor, ground(node.parentElement))
  const luminance = (colour: number[]): number =>
    colour.map((part) => part / 255)
      .map((part) => part <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4)
      .reduce((sum, part, index) => sum + part * ([0.2126, 0.7152, 0.0722][index] ?? 0), 0)
  return [...document.querySelectorAll('body *')].flatMap((node) => {
    const says = [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.textContent?.trim())
    if (!says || !node.checkVisibility() || node.closest('.unseen, :disabled') !== null) return []
    const under = ground(node)
    const [light = 0, dark = 0] = [luminance(under), luminance(rgba(getComputedStyle(node).color, under))].sort((
      a,
      b,
    ) => b - a)
    const ratio = (light + 0.05) / (dark + 0.05)
    return ratio >= 4.5 ? [] : [`${node.textContent?.trim().slice(0, 40)}: ${ratio.toFixed(2)}`]
  })
}
