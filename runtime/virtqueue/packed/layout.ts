/**
 * Constants of the packed ring. A descriptor's last word is `id | flags << 16`; the names with WORD are flags in their
 * place in that word.
 */
export const NEXT = 1;
export const WRITE = 2;
export const INDIRECT = 4;
export const AVAIL = 1 << 7;
export const USED = 1 << 15;

export const NEXT_WORD = NEXT << 16;
export const INDIRECT_WORD = INDIRECT << 16;
/** AVAIL and USED; xor with it goes from one lap's pattern to the next one's. */
export const LAP_WORD = ((AVAIL | USED) << 16) | 0;

/** What `word & LAP_WORD` is for an available descriptor in a lap with this wrap counter (virtio 1.4, 2.8.1). */
export function availableWord(wrap: 0 | 1): number {
  return wrap === 1 ? AVAIL << 16 : (USED << 16) | 0;
}

/** The two bits as they stand in the flags of a used descriptor in a lap with this wrap counter. */
export function usedFlags(wrap: 0 | 1): number {
  return wrap === 1 ? AVAIL | USED : 0;
}

export const EVENT_ENABLE = 0;
export const EVENT_DISABLE = 1;
export const EVENT_DESC = 2;
