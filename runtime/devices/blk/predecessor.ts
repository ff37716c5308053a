import type { DeviceHost } from '../../device/index.js';
import type { BlockBacking } from './backing.js';

/** Milliseconds between two looks. */
const LOOK_EVERY = 1;

/**
 * Waits until nobody else may write to the medium, for at most `limit` milliseconds; null when there is nothing to wait for.
 * Somebody who serves the image beside us, or who resumes it at the same time, holds it for longer than that.
 */
export function othersSettled(
  backing: BlockBacking,
  limit: number,
  log: DeviceHost['log'],
): Promise<void> | null {
  const held = backing.heldElsewhere?.();
  if (held === null) {
    log('debug', 'the file system cannot tell whether a process before this one still writes to the image');
  }
  if (held !== true) return null;
  const start = performance.now();
  return new Promise((resolve) => {
    const look = (): void => {
      const waited = performance.now() - start;
      const still = backing.heldElsewhere?.() === true;
      if (still && waited < limit) {
        setTimeout(look, LOOK_EVERY);
        return;
      }
      const fields = { milliseconds: Math.round(waited) };
      if (still) log('warn', 'another process holds the image: requests are resumed beside it', fields);
      else log('info', 'waited for what a process before this one still wrote to the image', fields);
      resolve();
    };
    setTimeout(look, LOOK_EVERY);
  });
}
