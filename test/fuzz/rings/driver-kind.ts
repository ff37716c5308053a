import { Random } from '../../support/random.js';
import { count, type FuzzKind, scattered } from '../kind.js';
import { scribbledOptions } from './device-kind.js';
import { attackDriver } from './scribbled.js';

function driverKind(format: 'split' | 'packed'): FuzzKind {
  const reached: Record<string, number> = {};
  return {
    reached,
    play(seed) {
      const random = new Random(scattered(seed));
      const { inputs, defect } = attackDriver(scribbledOptions(format, random), scattered(seed + 1));
      count(reached, defect ?? 'good');
      return inputs;
    },
  };
}

export const splitDriverKind = (): FuzzKind => driverKind('split');
export const packedDriverKind = (): FuzzKind => driverKind('packed');
