/**
 * Chains that a device still has when their ring is gone, since its front-end hung up or did not wait. Nobody is told of
 * their end, but what they do happens all the same: a write that the kernel has taken cannot be called back. The request
 * will be made again, by a front-end that comes back or out of the in-flight region, and may be followed by newer ones
 * for the same place. So no ring of the device is served before the last of the old chains has ended; the conversation
 * goes on meanwhile.
 */
export class Leftovers {
  #count = 0;
  readonly #waiting: (() => void)[] = [];

  /** One more ring left chains behind. Call what it returns once they have ended. */
  add(): () => void {
    this.#count++;
    let ended = false;
    return () => {
      if (ended) return;
      ended = true;
      if (--this.#count === 0) for (const go of this.#waiting.splice(0)) go();
    };
  }

  get any(): boolean {
    return this.#count > 0;
  }

  /** Calls back when there are none any more. */
  whenNone(go: () => void): void {
    if (this.any) this.#waiting.push(go);
    else go();
  }
}
