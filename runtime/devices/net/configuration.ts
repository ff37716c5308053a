import { NetConfig, NetDuplex, NetStatus } from '../../../generated/virtio/devices/net/layouts.js';
import type { DeviceConfiguration } from '../../device/index.js';
import { encodeToBytes } from '../../wire/index.js';
import type { CheckedOptions } from './options.js';

/** Speed that nobody knows. */
const UNKNOWN_SPEED = 0xffff_ffff;

/** The configuration space. All of it is read-only for the driver. */
export class NetConfiguration implements DeviceConfiguration {
  readonly size = NetConfig.maxSize;
  mtu: number;
  linkUp: boolean;
  readonly #options: CheckedOptions;

  constructor(options: CheckedOptions, linkUp: boolean) {
    this.#options = options;
    this.mtu = options.mtu;
    this.linkUp = linkUp;
  }

  read(): Uint8Array {
    return encodeToBytes(NetConfig, {
      mac: this.#options.mac ?? new Uint8Array(6),
      status: this.linkUp ? NetStatus.linkUp : 0,
      maxVirtqueuePairs: this.#options.queuePairs,
      mtu: this.mtu,
      speed: UNKNOWN_SPEED,
      duplex: NetDuplex.unknown,
      rssMaxKeySize: 0,
      rssMaxIndirectionTableLength: 0,
      supportedHashTypes: 0,
      supportedTunnelTypes: 0,
    });
  }

  /** Restoring state may write what is here already; the driver may write nothing. */
  write(offset: number, bytes: Uint8Array, migration: boolean): boolean {
    if (migration) return true;
    const present = this.read();
    return bytes.every((byte, i) => byte === present[offset + i]);
  }
}
