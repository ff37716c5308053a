import { VhostError } from '../errors.js';
import type { VirtqueueState } from '../virtqueue/device-virtqueue.js';

/**
 * A ring's position in SET_VRING_BASE and GET_VRING_BASE, one u32:
 *
 *   split   31 ─────── zero ─────── 16 │ 15 ── next available, runs freely ── 0
 *   packed  31 used wrap │ 30 used 16  │ 15 avail wrap │ 14 available ─────── 0
 */

/**
 * Reads the u32. Used and available are the same, since a ring is drained before its position is told; so an upper half of
 * zero in a packed ring's position stands for "the same as the lower half": peers that know only 16 bits (DPDK) send it so.
 */
export function decodeBase(format: 'split' | 'packed', base: number): VirtqueueState {
  if (format === 'split') {
    if (base > 0xffff) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `a split ring's base is an index of 16 bits, got 0x${base.toString(16)}`,
      );
    }
    return { format, nextAvailable: base, nextUsed: base };
  }
  const available = base & 0xffff;
  const used = base >>> 16 === 0 ? available : base >>> 16;
  return {
    format,
    nextAvailable: available & 0x7fff,
    availableWrap: available >>> 15 === 1 ? 1 : 0,
    nextUsed: used & 0x7fff,
    usedWrap: used >>> 15 === 1 ? 1 : 0,
  };
}

export function encodeBase(state: VirtqueueState): number {
  if (state.format === 'split') return state.nextAvailable;
  const available = state.nextAvailable | (state.availableWrap << 15);
  const used = state.nextUsed | (state.usedWrap << 15);
  return (available | (used << 16)) >>> 0;
}
