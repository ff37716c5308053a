import { type Addon, WatchEvent } from '../../native/index.js';
import type { PlatformError } from '../errors.js';
import { attempt, systemError } from './linux-errors.js';
import type { Watch } from './platform.js';

/** Watches an fd as a counter; the addon has drained it before `onSignal` is called. */
export class EventFdWatch implements Watch {
  readonly #addon: Addon;
  #watch: number;

  constructor(addon: Addon, fd: number, onSignal: () => void, onFailure?: (error: PlatformError) => void) {
    const what = `watch eventfd ${fd}`;
    this.#addon = addon;
    this.#watch = attempt(what, () =>
      addon.openWatch(fd, true, (result) => {
        if (result > 0) return onSignal();
        // It is watched no more. Without anybody to tell, this is an uncaughtException.
        const error = systemError(what, 'read', -result);
        if (onFailure === undefined) throw error;
        onFailure(error);
      }),
    );
    const status = addon.setWatchEvents(this.#watch, WatchEvent.readable);
    if (status === 0) return;
    this.close();
    throw systemError(what, 'epoll_ctl', -status);
  }

  close(): void {
    if (this.#watch < 0) return;
    this.#addon.closeWatch(this.#watch);
    this.#watch = -1;
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
