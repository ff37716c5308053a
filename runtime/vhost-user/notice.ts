import type { VhostUserError } from '../errors.js';

/**
 * Something the front-end is told again and again: that the configuration changed, that a ring was used. One message of it
 * is under way at a time; what is to be told meanwhile becomes one message more after the answer. So a front-end that
 * does not answer, or does not even read, costs one message for each notice and no more.
 */
export class Notice {
  readonly #send: () => Promise<unknown> | null;
  readonly #onFailure: (error: VhostUserError) => boolean;
  #due = false;
  #underWay = false;

  /**
   * `send` sends the message and gives the promise of its answer, or null while it cannot be sent; `retry` is to be called
   * when that may have changed. `onFailure` is told of an answer that says no or will not come, and returns whether to tell
   * it once more; then `send` must give null at some time, for it is asked again at once.
   */
  constructor(send: () => Promise<unknown> | null, onFailure: (error: VhostUserError) => boolean) {
    this.#send = send;
    this.#onFailure = onFailure;
  }

  /** Tells it, now or as soon as that can be. */
  tell(): void {
    this.#due = true;
    this.retry();
  }

  /** Tells what could not be told before. */
  retry(): void {
    if (!this.#due || this.#underWay) return;
    const answer = this.#send();
    if (answer === null) return;
    this.#due = false;
    this.#underWay = true;
    answer
      .catch((error: unknown) => {
        if (this.#onFailure(error as VhostUserError)) this.#due = true;
      })
      .finally(() => {
        this.#underWay = false;
        this.retry();
      });
  }
}
