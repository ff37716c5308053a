import { VhostError } from '../../errors.js';
import type { VirtioDevice } from '../../device/virtio-device.js';
import type { Platform } from '../../platform/platform.js';
import { DeviceStateDirection, DeviceStatePhase } from '../../../generated/vhost-user/payloads.js';
import type { OwnedFd } from '../fd-bundle.js';
import { packState, unpackState } from '../device-state.js';

export interface DeviceStateOptions {
  readonly platform: Platform;
  readonly device: VirtioDevice;
  /** Most bytes that are loaded. */
  readonly limit: number;
  readonly suspended: () => boolean;
}

/**
 * The transfer of a device's state between SET_DEVICE_STATE_FD and CHECK_DEVICE_STATE. It runs beside the conversation, so a
 * front-end that neither reads nor writes its channel holds up nothing but its own CHECK_DEVICE_STATE.
 */
export class DeviceStateTransfers implements Disposable {
  readonly #options: DeviceStateOptions;
  #abort: AbortController | null = null;
  #running = false;
  /** Resolves with null when it went through, else with the reason. */
  #outcome: Promise<unknown> | null = null;

  constructor(options: DeviceStateOptions) {
    this.#options = options;
  }

  /** SET_DEVICE_STATE_FD. Takes the fd over once nothing is wrong. Throws VhostError and what the device throws. */
  begin(direction: number, phase: number, fd: OwnedFd): void {
    const { platform, device, limit, suspended } = this.#options;
    const { save, load } = DeviceStateDirection;
    if ((direction !== save && direction !== load) || phase !== DeviceStatePhase.stopped) {
      throw new VhostError(
        'ERR_VHOST_PAYLOAD',
        `expected device state to be saved or loaded while stopped, got direction ${direction} in phase ${phase}`,
      );
    }
    if (!suspended()) {
      throw new VhostError('ERR_VHOST_STATE', 'device state moves only while every ring is stopped');
    }
    if (this.#running) {
      throw new VhostError('ERR_VHOST_STATE', 'a transfer of device state is under way already');
    }
    const kind = platform.fdKind(fd.fd);
    if (kind !== 'pipe' && kind !== 'socket') {
      throw new VhostError('ERR_VHOST_FDS', `expected a pipe or a socket for device state, got a ${kind}`);
    }
    const abort = new AbortController();
    let work: Promise<void>;
    if (direction === save) {
      const state = packState(device.deviceId, device.saveState!());
      work = platform.writeChannel(fd.release(), state, abort.signal);
    } else {
      work = platform
        .readChannel(fd.release(), limit, abort.signal)
        .then((packed) => this.#load(unpackState(device.deviceId, packed)));
    }
    this.#abort = abort;
    this.#running = true;
    this.#outcome = work
      .then(
        () => null,
        (error: unknown) => error,
      )
      .finally(() => {
        if (this.#abort === abort) this.#running = false;
      });
  }

  /** CHECK_DEVICE_STATE: how the last transfer went, once it is over. Rejects with the reason when it failed. */
  async check(): Promise<void> {
    if (this.#outcome === null) {
      throw new VhostError('ERR_VHOST_STATE', 'no device state was transferred');
    }
    const reason = await this.#outcome;
    if (reason !== null) throw reason as Error;
  }

  /** A transfer under way fails; what was transferred before is forgotten. */
  abort(): void {
    this.#abort?.abort(new VhostError('ERR_VHOST_STATE', 'the transfer of device state was broken off'));
    this.#abort = null;
    this.#outcome = null;
    this.#running = false;
  }

  [Symbol.dispose](): void {
    this.abort();
  }

  #load(state: Uint8Array): void {
    if (!this.#options.suspended()) {
      throw new VhostError('ERR_VHOST_STATE', 'a ring was started before the device state had come');
    }
    this.#options.device.loadState!(state);
  }
}
