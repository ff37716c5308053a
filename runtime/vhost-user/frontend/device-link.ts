import { VhostError } from '../../errors.js';
import { MAX_CONFIG_SPACE_SIZE } from '../../../generated/vhost-user/payloads.js';
import { bounded } from './announce.js';
import { BackendLink } from './backend-link.js';

/** What is asked of the device itself, rings aside: its configuration space, its network, its objects. */
export abstract class DeviceLink extends BackendLink {
  /**
   * Reads `length` bytes of configuration space from `offset` on. Asked for from the start on: libvhost-user answers so
   * whatever the offset.
   */
  async readConfig(length: number, offset = 0, signal?: AbortSignal): Promise<Uint8Array> {
    const size = offset + length;
    if (size > MAX_CONFIG_SPACE_SIZE) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `configuration space has at most ${MAX_CONFIG_SPACE_SIZE} bytes`,
      );
    }
    const ask = { offset: 0, flags: 0 as const, payload: new Uint8Array(size) };
    const { payload } = await this.request('getConfig', ask, bounded(signal));
    if (payload.byteLength !== size) {
      throw new VhostError(
        'ERR_VHOST_REPLY',
        `asked for ${size} bytes of configuration space, got ${payload.byteLength}`,
        { request: 'VHOST_USER_GET_CONFIG' },
      );
    }
    return payload.subarray(offset);
  }

  /** Writes configuration space as the driver, or as a migration does, which may write everything. */
  async writeConfig(
    offset: number,
    bytes: Uint8Array,
    options: { migration?: boolean; signal?: AbortSignal } = {},
  ): Promise<void> {
    const { migration = false, signal } = options;
    await this.request('setConfig', { offset, flags: migration ? 1 : 0, payload: bytes }, bounded(signal));
  }

  /** Tells a network device that a guest has moved here. `mac` is six bytes. */
  async sendRarp(mac: Uint8Array, signal?: AbortSignal): Promise<void> {
    const padded = new Uint8Array(8);
    padded.set(mac.subarray(0, 6));
    const value = new DataView(padded.buffer).getBigUint64(0, true);
    await this.request('sendRarp', value, bounded(signal));
  }

  /** Sets the MTU of a network device; rejects with ERR_VHOST_REFUSED when it cannot have it. */
  async setMtu(mtu: number, signal?: AbortSignal): Promise<void> {
    await this.request('netSetMtu', BigInt(mtu), bounded(signal));
  }

  /** An object that the back-end exports (GET_SHARED_OBJECT): its fd, the caller's to close; null when there is none. */
  async sharedObject(uuid: Uint8Array, signal?: AbortSignal): Promise<number | null> {
    const replyFds: number[] = [];
    await this.request('getSharedObject', { uuid }, { ...bounded(signal), replyFds });
    return replyFds[0] ?? null;
  }
}
