// Randomness that a seed repeats, for tests that try what nobody thought of.

/** BALCAO_TEST_SEED, or a new one; a test names it in its title or its output. */
export function testSeed(): number {
  return Number(process.env.BALCAO_TEST_SEED ?? Math.floor(Math.random() * 1e6))
}

/** A whole number from 0 to below `below`, by mulberry32. */
export function seeded(seed: number): (below: number) => number {
  let state = seed >>> 0
  return (below) => {
    state = (state + 0x6d2b79f5) >>> 0
    let mixed = Math.imul(state ^ (state >>> 15), state | 1)
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)
    return Math.floor(((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296 * below)
  }
}
