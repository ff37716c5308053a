import { Random } from '../../support/random.js';
import { type FuzzKind, scattered } from '../kind.js';
import { FrontendSequence } from './sequence.js';

/** A driver with our front-end against back-ends that misbehave. One input is one message of theirs. */
export function frontendKind(): FuzzKind {
  const reached: Record<string, number> = {};
  return {
    reached,
    play: (seed) => FrontendSequence.play(new Random(scattered(seed)), reached),
  };
}
