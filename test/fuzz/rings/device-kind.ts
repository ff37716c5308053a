import { Random } from '../../support/random.js';
import type { RigOptions } from '../../virtqueue/property-rig.js';
import { count, type FuzzKind, scattered } from '../kind.js';
import { hostileInflight } from './hostile-inflight.js';
import { packedRound, splitRound } from './malformed-rounds.js';
import { attackDevice } from './scribbled.js';

/** Rings against the model in most sequences, rings that are scribbled over in the others. */
function deviceKind(format: 'split' | 'packed'): FuzzKind {
  const reached: Record<string, number> = {};
  const sizes = format === 'split' ? [1, 2, 4, 8, 8, 16, 64] : [1, 2, 3, 5, 7, 8, 8, 50];
  const round = format === 'split' ? splitRound : packedRound;
  return {
    reached,
    play(seed) {
      const random = new Random(scattered(seed));
      if (random.chance(4)) {
        const { inputs, defect } = attackDevice(scribbledOptions(format, random), scattered(seed + 1));
        count(reached, `scribbled: ${defect ?? 'good'}`);
        return inputs;
      }
      if (random.chance(5)) {
        const { inputs, verdict } = hostileInflight(format, random);
        count(reached, `in-flight record: ${verdict}`);
        return inputs;
      }
      const { verdict, chains } = round(random, random.pick(sizes), `seed ${seed}`);
      count(reached, `model: ${verdict}`);
      return chains;
    },
  };
}

/** A ring as both sides of the library make it. */
export function scribbledOptions(format: 'split' | 'packed', random: Random): RigOptions {
  return {
    format,
    size: format === 'split' ? random.pick([1, 2, 8, 16]) : random.pick([1, 3, 8, 11]),
    eventIdx: random.chance(2),
    inOrder: random.chance(3),
    indirectCapacity: random.pick([0, 8]),
  };
}

export const splitDeviceKind = (): FuzzKind => deviceKind('split');
export const packedDeviceKind = (): FuzzKind => deviceKind('packed');
