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
 * @returns {HTMLElement}
 */
export function element(name, attributes = {}, ...children) {
  const made = document.createElement(name)
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value)
  made.append(...children)
  return made
}

/** @param {string} label @param {() => void} act @param {Record<string, string>} [attributes] */
export function button(label, act, attributes = {}) {
  const made = element('button', { type: 'button', ...attributes }, label)
  made.addEventListener('click', act)
  return made
}

/** @param {string} text */
export function unseen(text) {
  return element('span', { class: 'unseen' }, text)
}

const MARKS = /(\*[^\s*](?:[^*\n]*[^\s*])?\*|_[^\s_](?:[^_\n]*[^\s_])?_|~[^\s~](?:[^~\n]*[^\s~])?~)/

/**
 * Text as WhatsApp shows it: *bold*, _italic_, ~struck~.
 * @param {string} text
 * @returns {(Node | string)[]}
 */
export function formatted(text) {
  return text.split(MARKS).map((part, index) => {
    if (index % 2 === 0) return part
    const name = { '*': 'strong', _: 'em' }[part.charAt(0)] ?? 's'
    return element(name, {}, part.slice(1, -1))
  })
}

const SVG = 'http://www.w3.org/2000/svg'
const SHAPES = {
  waiting: 'M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 0 0 0-11M8 5v3.2l2.2 1.3',
  one: 'M3 8.5l3.2 3.2L13 5',
  two: 'M1 8.5l3.2 3.2L11 5M8.2 11L9 11.7L16 5',
  failed: 'M8 2.5a5.5 5.5 0 1 0 0 11a5.5 5.5 0 0 0 0-11M8 5v3.6M8 10.8v.2',
}

/**
 * The fate of a message, to look at and to read out.
 * @param {keyof typeof SHAPES} shape
 * @param {string} label
 * @param {boolean} isRead
 */
export function tick(shape, label, isRead) {
  const drawing = document.createElementNS(SVG, 'svg')
  drawing.setAttribute('viewBox', '0 0 17 16')
  const path = document.createElementNS(SVG, 'path')
  path.setAttribute('d', SHAPES[shape])
  drawing.append(path)
  const made = element('span', {
    class: `tick ${shape}${isRead ? ' read' : ''}`,
    role: 'img',
    'aria-label': label,
    title: label,
  })
  made.append(drawing)
  return made
}

/** @type {WeakMap<Element, string>} */
const shown = new WeakMap()

/**
 * Makes a container show items, each by its key: what has not changed is not touched, so that a screen reader is told of
 * what is new only, and the focus stays where it is.
 * @template Item
 * @param {Element} container
 * @param {Item[]} items
 * @param {{ key: (item: Item) => string, make: (item: Item) => Element, state?: (item: Item) => unknown, patch?: (node: Element, item: Item) => void }} how
 */
export function show(container, items, { key, make, state = (item) => item, patch }) {
  const old = new Map([...container.children].map((node) => [node.getAttribute('data-key') ?? '', node]))
  /** @type {Element | null} */
  let last = null
  for (const item of items) {
    const name = key(item)
    const now = JSON.stringify(state(item))
    let node = old.get(name)
    old.delete(name)
    if (node === undefined) {
      node = make(item)
      node.setAttribute('data-key', name)
    } else if (shown.get(node) !== now) {
      const made = make(item)
      made.setAttribute('data-key', name)
      node.replaceWith(made)
      node = made
    }
    shown.set(node, now)
    patch?.(node, item)
    /** @type {Element | null} */
    const next = last === null ? container.firstElementChild : last.nextElementSibling
    if (next !== node) container.insertBefore(node, next)
    last = node
  }
  for (const node of old.values()) node.remove()
}

/**
 * Runs a change of a log, which stays at its end if it was there.
 * @param {HTMLElement} log
 * @param {() => void} change
 * @param {boolean} [toTheEnd]
 */
export function keepingTheEnd(log, change, toTheEnd = false) {
  const wasAtEnd = log.scrollHeight - log.scrollTop - log.clientHeight < 60
  change()
  if (wasAtEnd || toTheEnd) log.scrollTop = log.scrollHeight
}

/**
 * A text field that grows with its text; Enter sends, Shift+Enter begins a line.
 * @param {HTMLFormElement} form
 * @param {HTMLTextAreaElement} field
 * @param {(text: string) => void} send
 */
export function composer(form, field, send) {
  const fit = () => {
    field.style.height = 'auto'
    field.style.height = `${Math.min(field.scrollHeight, 140)}px`
  }
  field.addEventListener('input', fit)
  field.addEventListener('keydown', (event) => {
    // Enter also ends what an input method is composing.
    if (event.key !== 'Enter' || event.shiftKey || event.isComposing) return
    event.preventDefault()
    form.requestSubmit()
  })
  form.addEventListener('submit', (event) => {
    event.preventDefault()
    const text = field.value.trim()
    if (text === '' || field.disabled) return
    field.value = ''
    fit()
    send(text)
  })
}
