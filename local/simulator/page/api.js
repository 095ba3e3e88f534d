// The page's only way out: the stack's /simulator/api, with the token that came with the page.

const token = document.querySelector('meta[name="simulator-token"]')?.getAttribute('content') ?? ''

const TIMEOUT_MS = 30_000

/** What the stack refused, or that nobody answered. */
export class Refused extends Error {
  /** @param {string} code @param {string} message */
  constructor(code, message) {
    super(message)
    this.code = code
  }
}

/** @param {string} path @param {Record<string, string>} [query] */
export function get(path, query = {}) {
  const search = new URLSearchParams(query)
  return ask(`${path}${search.size > 0 ? `?${search}` : ''}`, {})
}

/** @param {string} path @param {object} body */
export function post(path, body) {
  return ask(path, { method: 'POST', headers: { 'content-type': 'application/json' }, body: JSON.stringify(body) })
}

/**
 * Null where the stack has nothing new.
 * @param {string} path
 * @param {RequestInit} request
 * @returns {Promise<any>}
 */
async function ask(path, request) {
  const headers = { ...request.headers, 'x-simulator-token': token }
  // A computer that slept wakes up with requests that nobody will answer.
  const signal = AbortSignal.timeout(TIMEOUT_MS)
  /** @type {Response} */
  let response
  try {
    response = await fetch(`/simulator/api/${path}`, { ...request, headers, signal })
  } catch {
    throw new Refused('no_answer', 'Nobody answers')
  }
  if (response.status === 204) return null
  const answer = await response.json().catch(() => null)
  if (response.ok) return answer
  throw new Refused(answer?.error?.code ?? 'no_answer', answer?.error?.message ?? `HTTP ${response.status}`)
}
