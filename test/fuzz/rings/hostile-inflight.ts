import * as assert from 'uvu/assert';
import { VirtqueueError } from '../../../runtime/errors.js';
import { ChainBatch } from '../../../runtime/virtqueue/chain-batch.js';
import type { VirtqueueState } from '../../../runtime/virtqueue/device-virtqueue.js';
import { Random } from '../../support/random.js';
import { type RawPackedRing, type RawSplitRing, WRITE } from '../../support/raw-rings.js';
import { TestGuest } from '../../support/test-guest.js';
import { chainsOf, type DeviceRig, packedRig, splitRig } from '../../virtqueue/device-rig.js';
import { trackedIn } from './malformed-rounds.js';

/** How often a ring was started in a record that somebody had written into, and what it broke with last. */
export interface HostileOutcome {
  readonly inputs: number;
  readonly verdict: string;
}

/**
 * Starts a ring again and again where the one before stopped in the middle, in a record of chains in flight that the front-end
 * has written into meanwhile. Each start ends in one of our errors or in chains that lie in memory, each once.
 */
export function hostileInflight(format: 'split' | 'packed', random: Random): HostileOutcome {
  const guest = new TestGuest([{ address: 0, size: 0x1_0000 }]);
  const size = format === 'split' ? random.pick([1, 2, 8, 16]) : random.pick([1, 3, 8, 11]);
  const inflight = trackedIn(guest, format, size);
  const record = guest.windows.u8[inflight.window]!;
  let verdict = 'good';
  let inputs = 0;
  let ring: RawSplitRing | RawPackedRing | null = null;
  /** Chains that the driver has not had back. */
  const outstanding = new Set<number>();
  for (let life = 0; life < 4; life++, inputs++) {
    if (life > 0 && random.chance(2)) scribble(random, record);
    let rig: DeviceRig<RawSplitRing | RawPackedRing>;
    try {
      rig =
        format === 'split'
          ? splitRig({ guest, size, inflight, state: splitState(ring) })
          : packedRig({ guest, size, inflight });
    } catch (error) {
      assert.instance(error, VirtqueueError);
      verdict = (error as VirtqueueError).code;
      continue;
    }
    // The driver lives on.
    ring ??= rig.ring;
    verdict = live(random, { ...rig, ring }, outstanding);
  }
  return { inputs, verdict };
}

/** Where a split ring stands, which is said by the ring itself. */
function splitState(ring: RawSplitRing | RawPackedRing | null): VirtqueueState {
  const used = ring !== null && 'usedIndex' in ring ? ring.usedIndex : 0;
  return { format: 'split', nextAvailable: used, nextUsed: used };
}

/** A few chains, some of them completed; the rest stays in flight when the process is killed. */
function live(
  random: Random,
  { guest, ring, queue }: DeviceRig<RawSplitRing | RawPackedRing>,
  outstanding: Set<number>,
): string {
  const { size } = ring;
  const handles = new Set<number>();
  const batch = new ChainBatch(size, 4 * size);
  for (let turn = 0; turn < 3; turn++) {
    const chain = [{ address: 0x8000 + random.below(0x1000), length: 1 + random.below(64), flags: WRITE }];
    const slot = random.below(size);
    const free = !outstanding.has(slot) || random.chance(60);
    if (free) outstanding.add(slot);
    if (!free) {
      // Nothing to offer this time.
    } else if ('availableIndex' in ring) {
      ring.chain([slot], chain);
      ring.offer(slot);
    } else ring.offer(slot, chain);
    queue.drain(batch, 1 + random.below(size));
    for (const { handle, writable, readable } of chainsOf(guest, batch)) {
      assert.ok(handle >= 0 && handle < size && !handles.has(handle), `handle ${handle} is given twice`);
      assert.ok([...writable, ...readable].every(([at, length]) => at + length <= 0x1_0000));
      handles.add(handle);
    }
    assert.is(queue.inFlight, handles.size);
    for (const handle of [...handles]) {
      if (random.chance(2)) continue;
      queue.complete(handle, 0);
      handles.delete(handle);
      outstanding.delete(handle);
    }
    queue.publish();
  }
  return queue.broken?.code ?? 'good';
}

function scribble(random: Random, record: Uint8Array): void {
  if (random.chance(12)) record.set(random.bytes(record.byteLength));
  for (let n = random.below(4); n > 0; n--) {
    const at = random.chance(2)
      ? random.below(Math.min(32, record.byteLength))
      : random.below(record.byteLength);
    record[at] = random.pick([0, 1, 2, 0x7f, 0x80, 0xff, random.below(256)]);
  }
}
