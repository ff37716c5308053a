import type { VirtioDevice } from '../../device/virtio-device.js';

/**
 * Chains that a device still has when their ring is gone, since its front-end hung up or did not wait. Nobody is told of
 * their end, but what they do happens all the same: a write that the kernel has taken cannot be called back. The request
 * will be made again, by a front-end that comes back or out of the in-flight region, and may be followed by newer ones
 * for the same place. So no ring of the device is served before the last of the old chains has ended; the conversation
 * goes on meanwhile. What a process before this one has left to the kernel is waited for likewise, before the first ring
 * that resumes its chains.
 */
export class Leftovers {
  #count = 0;
  #asked = false;
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

  /** A ring of the device is about to resume chains. `failed` is told when the device cannot say what it has to wait for. */
  resuming(device: VirtioDevice, failed: (cause: unknown) => void): void {
    if (this.#asked) return;
    this.#asked = true;
    try {
      const settled = device.settled?.() ?? null;
      if (settled !== null) settled.catch(failed).then(this.add(), failed);
    } catch (cause) {
      failed(cause);
    }
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
