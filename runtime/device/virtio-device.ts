import type { DeviceQueue } from './device-queue.js';
import type { FrontendServices } from './frontend-services.js';

/**
 * What a device author implements. The transport hosts it: negotiation, rings, notification and resume are not its
 * business, and it sees neither socket nor ring. A device that just answers one chain after the other extends
 * `ChainDevice` (chain-device.ts) and implements `handleChain` alone.
 */
export interface VirtioDevice {
  /** virtio device id, from generated/virtio/device-ids. */
  readonly deviceId: number;
  /** The device type's own feature bits that are offered. Ring and transport bits are added by the host. */
  readonly features: bigint;
  /** Queues the device serves at most. */
  readonly queueCount: number;
  /** Largest queue it accepts; 1024 when absent. At most 32768. */
  readonly maxQueueSize?: number;
  /**
   * Longest chain, in descriptors, that the limits in the device's configuration space allow a driver to make. Linux takes
   * these limits at their word: on a queue smaller than that it makes indirect tables longer than the queue, which
   * virtio 1.4, 2.7.5.3.1 forbids. Such chains are served; without this member a chain is as long as its queue at most.
   */
  readonly maxChainLength?: number;
  /** Configuration space; absent when the type has none. */
  readonly config?: DeviceConfiguration;

  /** The device offers host notifiers (`FrontendServices.offerHostNotifier`). */
  readonly hostNotifiers?: boolean;
  /** Regions of shared memory that the device maps files into (virtio 1.4, 2.10), by their ids below 256. */
  readonly sharedMemory?: readonly SharedMemoryDeclaration[];
  /**
   * The fd of an object that the device has added under this UUID, null when there is none; another device wants it. The fd
   * stays the device's. A device without this method shares and looks up no objects.
   */
  sharedObject?(uuid: Uint8Array): number | null;

  /** A connection begins to use the device. Called before anything else, again for the next connection. */
  attach?(host: DeviceHost): void;
  /** The driver accepted these bits (may be called again when a guest starts over). */
  setFeatures?(features: bigint): void;
  /** A ring has started and is enabled. The device keeps what it needs for this queue. */
  startQueue?(queue: DeviceQueue): void;
  /**
   * Chains may be available: drain and serve them. Called again after kicks and whenever `queue.resume()` asks for it.
   * Return when nothing is left or when no more can be taken now. Completions may come later, in any order.
   */
  serveQueue(queue: DeviceQueue): void;
  /** The driver disabled a queue that runs. `serveQueue` is called when it is enabled again. */
  disableQueue?(queue: DeviceQueue): void;
  /**
   * Whether chains of this queue are completed unserved once it is disabled, as a network device has to drop what is sent
   * then (vhost-user, "Ring states"). Without it they stay where they are.
   */
  discardsDisabled?(index: number): boolean;
  /**
   * Chains are waited for that the queue has in flight. A device completes at once, with nothing written, what it only keeps in
   * hand for later; work under way goes on. A stop that waits asks for it too, just before `stopQueue`.
   */
  yieldQueue?(queue: DeviceQueue): void;
  /** No chain will be taken from this queue any more. The host waits until those in flight are completed. */
  stopQueue?(queue: DeviceQueue): void;
  /**
   * Whether chains of this queue that the device has when `stopQueue` is called can be taken from it: it reads and writes
   * nothing for them from then on, in guest memory or elsewhere, and whoever is given the queue next does them again. It still
   * completes them some time, which is dropped. Without it a stop waits for them, and so does the next connection before its
   * queues are served.
   */
  letsGo?(index: number): boolean;
  /**
   * Chains are to be resumed that another process had in flight. Resolves when nothing is written any more that it has begun
   * outside of guest memory; until then no queue is served that starts. Asked once; null when there is nothing to wait for.
   */
  settled?(): Promise<void> | null;
  /** Network devices: has the network learn that the address `mac`, six bytes, is here now (SEND_RARP). */
  announce?(mac: Uint8Array): void;
  /** Network devices: the front-end sets the MTU (NET_SET_MTU). Returns false to refuse. */
  setMtu?(mtu: number): boolean;
  /**
   * What another back-end's device of this kind has to know to take over, beyond what the front-end tells it; called while no
   * queue runs. A device with this and `loadState` gets DEVICE_STATE offered. It says its own version.
   */
  saveState?(): Uint8Array;
  /** Takes over. The bytes are anybody's: throws DeviceError for those that are no state of this device, and stays as it is. */
  loadState?(state: Uint8Array): void;
  /** Back to the state before the driver came: RESET_DEVICE, status 0 or the end of a connection. */
  reset?(): void;
}

export interface SharedMemoryDeclaration {
  readonly id: number;
  /** Bytes, whole pages. */
  readonly size: bigint;
}

/** What the host lends to a device while a connection lasts. */
export interface DeviceHost {
  /** Tells the driver that the configuration space changed. */
  configurationChanged(): void;
  /** What the front-end does for the device. */
  readonly frontend: FrontendServices;
  /** Structured log line. */
  log(level: 'error' | 'warn' | 'info' | 'debug', message: string, fields?: Record<string, unknown>): void;
}

/** The device's configuration space. */
export interface DeviceConfiguration {
  /** Size in bytes of the space, as the negotiated features have it. */
  readonly size: number;
  /** The whole space, `size` bytes, little-endian. Called for every GET_CONFIG. */
  read(): Uint8Array;
  /**
   * The driver writes `bytes` at `offset` (already inside the space). `migration`: the write restores state and may touch
   * read-only fields. Returns false to refuse.
   */
  write?(offset: number, bytes: Uint8Array, migration: boolean): boolean;
}
