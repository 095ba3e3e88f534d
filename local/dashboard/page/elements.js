// Elements and what is in them. Whatever anybody wrote becomes text nodes; nothing here reads HTML.

/**
 * @template {HTMLElement} Kind
 * @param {string} id
 * @param {new () => Kind} kind
 * @returns {Kind}
 */
export function byId(id, kind) {
  const found = document.getElementById(id)
  if (!(found instanceof kind)) throw new Error(`The page has no ${id}`)
  return found
}

/**
 * @param {string} name
 * @param {Record<string, string>} [attributes]
 * @param {(Node | string)[]} children
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}

/** @param {string} id @param {(Node | string)[]} children */
export function fill(id, ...children) {
  byId(id, HTMLElement).replaceChildren(...children)
}

/** Said only when it changes: a screen reader reads it out. @param {string} id @param {string} text */
export function say(id, text) {
  const line = byId(id, HTMLElement)
  if (line.textContent !== text) line.textContent = text
  line.hidden = text === ''
}

/** @param {string} text */
export function unseen(text) {
  return element('span', { class: 'unseen' }, text)
}

/**
 * @typedef {{ title: string, isNumber?: boolean }} Column
 * @param {string} caption
 * @param {Column[]} columns
 * @param {string[][]} rows
 */
export function table(caption, columns, rows) {
  const align = (/** @type {number} */ index) => columns[index]?.isNumber === false ? {} : { class: 'number' }
  return element(
    'table',
    {},
    element('caption', { class: 'unseen' }, caption),
    element(
      'thead',
      {},
      element('tr', {}, ...columns.map(({ title }, index) => element('th', { scope: 'col', ...align(index) }, title))),
    ),
    element(
      'tbody',
      {},
      ...rows.map((cells) =>
        element(
          'tr',
          {},
          ...cells.map((cell, index) =>
            index === 0 ? element('th', { scope: 'row', ...align(index) }, cell) : element('td', align(index), cell)
          ),
        )
      ),
    ),
  )
}
