import { DeviceError } from '../errors.js';

/** A range of a file that a driver may write to in order to notify a queue without a way through the back-end. */
export interface HostNotifierArea {
  /** Stays the device's; it may close it once the promise is settled. */
  readonly fd: number;
  /** Where the range starts in the file; whole pages, as is the size in bytes. */
  readonly offset: bigint;
  readonly size: bigint;
}

/** A range of one of the device's shared memory regions, in bytes and whole pages. */
export interface SharedMemoryRange {
  /** Id of the region. */
  readonly id: number;
  readonly offset: bigint;
  readonly length: bigint;
}

/** What of which file such a range shows. */
export interface SharedMemorySource {
  /** Stays the device's; it may close it once the promise is settled. */
  readonly fd: number;
  /** Where the range starts in the file; whole pages. */
  readonly offset: bigint;
  readonly writable: boolean;
}

/**
 * What the front-end does for a device beyond its rings, when it can and the device has declared that it wants it (see
 * `VirtioDevice`). Every call rejects with a VhostError: ERR_VHOST_GATE where the front-end has not accepted the feature,
 * ERR_VHOST_STATE while no ring runs or the front-end takes no requests, ERR_VHOST_REFUSED when it says no,
 * ERR_VHOST_DISCONNECTED when it goes. A front-end may answer late, so a chain whose completion waits for an answer holds up
 * the stop of its ring. With a front-end without REPLY_ACK a call resolves when it is sent, whatever comes of it.
 */
export interface FrontendServices {
  /** Offers a place where the driver notifies queue `index` directly. It is gone when the queue stops; call it in `startQueue`. */
  offerHostNotifier(index: number, area: HostNotifierArea): Promise<void>;
  /** Takes the place away again; the driver goes back to kicks. */
  withdrawHostNotifier(index: number): Promise<void>;
  /** Exports an object under a UUID of 16 bytes. Its fd is asked for by `sharedObject` when another device wants it. */
  addSharedObject(uuid: Uint8Array): Promise<void>;
  /** Takes an object of this device back. */
  removeSharedObject(uuid: Uint8Array): Promise<void>;
  /** The fd of another device's object, which is then the caller's to close; null when there is none. */
  lookUpSharedObject(uuid: Uint8Array): Promise<number | null>;
  /** Shows a range of a file in a region of shared memory that shows nothing there. Everything is unmapped by a reset. */
  mapSharedMemory(range: SharedMemoryRange, source: SharedMemorySource): Promise<void>;
  /** Unmaps exactly what one call has mapped. */
  unmapSharedMemory(range: SharedMemoryRange): Promise<void>;
}

/** Those of a host that has no front-end: every call rejects. */
export const NO_FRONTEND_SERVICES: FrontendServices = {
  offerHostNotifier: unavailable,
  withdrawHostNotifier: unavailable,
  addSharedObject: unavailable,
  removeSharedObject: unavailable,
  lookUpSharedObject: unavailable,
  mapSharedMemory: unavailable,
  unmapSharedMemory: unavailable,
};

function unavailable(): Promise<never> {
  return Promise.reject(new DeviceError('ERR_DEVICE_FAILED', 'there is no front-end here to ask'));
}
