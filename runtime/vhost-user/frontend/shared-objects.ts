import { VhostError } from '../../errors.js';

/** Who exports objects: one front-end's back-end. */
export interface SharedObjectOwner {
  /** Asks the back-end for an object of its; the fd is the caller's to close, null when there is none. */
  sharedObject(uuid: Uint8Array): Promise<number | null>;
}

/** Objects that one owner may export at a time. */
export const MAX_SHARED_OBJECTS = 1024;

/**
 * Objects that back-ends export to one another under UUIDs. One registry is given to all front-ends whose back-ends may see
 * each other's (`FrontendOptions.sharedObjects`). A UUID stands for one object; only its owner takes it back, and loses it
 * with its connection.
 */
export class SharedObjectRegistry {
  readonly #owners = new Map<string, SharedObjectOwner>();
  readonly #counts = new Map<SharedObjectOwner, number>();

  /** UUIDs that are known, as 32 hexadecimal digits. */
  get uuids(): readonly string[] {
    return [...this.#owners.keys()];
  }

  /** Throws ERR_VHOST_REFUSED when there is such an object, whoever's it is. */
  add(uuid: Uint8Array, owner: SharedObjectOwner): void {
    const key = keyOf(uuid);
    const refused = (why: string): VhostError => new VhostError('ERR_VHOST_REFUSED', `object ${key} ${why}`);
    if (this.#owners.has(key)) throw refused('is there already');
    const count = this.#counts.get(owner) ?? 0;
    if (count >= MAX_SHARED_OBJECTS) throw refused(`would be one too many: its owner has ${count}`);
    this.#owners.set(key, owner);
    this.#counts.set(owner, count + 1);
  }

  /** Throws ERR_VHOST_REFUSED when there is no such object, or it is another's. */
  remove(uuid: Uint8Array, owner: SharedObjectOwner): void {
    const key = keyOf(uuid);
    if (this.#owners.get(key) !== owner) {
      throw new VhostError('ERR_VHOST_REFUSED', `object ${key} is not one of this back-end's`);
    }
    this.#owners.delete(key);
    this.#counts.set(owner, this.#counts.get(owner)! - 1);
  }

  /** The object's fd, which is the caller's to close; null when nobody has it. */
  async lookUp(uuid: Uint8Array): Promise<number | null> {
    const owner = this.#owners.get(keyOf(uuid));
    return owner === undefined ? null : owner.sharedObject(uuid);
  }

  /** The owner is gone, and everything of its. */
  removeAll(owner: SharedObjectOwner): void {
    for (const [key, each] of this.#owners) if (each === owner) this.#owners.delete(key);
    this.#counts.delete(owner);
  }
}

function keyOf(uuid: Uint8Array): string {
  return Buffer.from(uuid).toString('hex');
}
