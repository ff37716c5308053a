import { EventFlag, PackedDescFlag } from '../../../generated/virtio/packed-virtqueue.js';

/**
 * Constants of the packed ring. A descriptor's last word is `id | flags << 16`; the names with WORD are flags in their
 * place in that word.
 */
export const NEXT = PackedDescFlag.next;
export const WRITE = PackedDescFlag.write;
export const INDIRECT = PackedDescFlag.indirect;
export const AVAIL = PackedDescFlag.avail;
export const USED = PackedDescFlag.used;

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

export const EVENT_ENABLE = EventFlag.enable;
export const EVENT_DISABLE = EventFlag.disable;
export const EVENT_DESC = EventFlag.desc;
