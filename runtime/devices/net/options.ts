import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { NET_MTU_MAX, NET_MTU_MIN } from '../../../generated/virtio/devices/net/layouts.js';
import { DeviceError } from '../../errors.js';
import { OFFLOADS } from './offloads.js';
import type { NetPort } from './port.js';

export interface NetDeviceOptions {
  /** The device's address, six bytes; without one the driver or the front-end chooses. */
  readonly mac?: Uint8Array;
  /** Largest MTU, 68 to 65535; 1500 when absent. A front-end may set another one. */
  readonly mtu?: number;
  /** Pairs of receive and transmit queues, 1 to 128; 1 when absent. */
  readonly queuePairs?: number;
  /** Largest queue accepted, 2 to 32768; 1024 when absent. */
  readonly queueSize?: number;
}

export interface CheckedOptions {
  readonly mac: Uint8Array | null;
  readonly mtu: number;
  readonly queuePairs: number;
  readonly queueSize: number;
}

/** Fills in defaults. Throws DeviceError (ERR_DEVICE_CONFIGURATION) on anything that cannot be. */
export function checkOptions(port: NetPort, options: NetDeviceOptions): CheckedOptions {
  const queuePairs = integer('queuePairs', options.queuePairs ?? 1, 1, 128);
  if (queuePairs > port.pairs) {
    throw configurationError(`queuePairs: ${queuePairs}, the port serves ${port.pairs}`);
  }
  const mac = options.mac ?? null;
  if (mac !== null && (mac.byteLength !== 6 || (mac[0]! & 1) !== 0 || mac.every((byte) => byte === 0))) {
    throw configurationError(`mac: ${formatMac(mac)} is not the address of one device`);
  }
  return {
    mac: mac === null ? null : Uint8Array.from(mac),
    mtu: integer('mtu', options.mtu ?? 1500, NET_MTU_MIN, NET_MTU_MAX),
    queuePairs,
    queueSize: integer('queueSize', options.queueSize ?? 1024, 2, 32768),
  };
}

/**
 * What the device offers. GUEST_ANNOUNCE and MQ are offered without CTRL_VQ, against the letter of the specification: over
 * vhost-user the front-end has the control queue, and QEMU and DPDK ask the back-end for these two bits and not for that one.
 */
export function offeredFeatures(port: NetPort, { mac, queuePairs }: CheckedOptions): bigint {
  let features = NetFeature.mrgRxbuf | NetFeature.status | NetFeature.mtu | NetFeature.guestAnnounce;
  features |= port.offloads & (OFFLOADS.sent | OFFLOADS.received);
  if (mac !== null) features |= NetFeature.mac;
  if (queuePairs > 1) features |= NetFeature.mq;
  return features;
}

function formatMac(mac: Uint8Array): string {
  return Array.from(mac, (byte) => byte.toString(16).padStart(2, '0')).join(':');
}

function integer(name: string, value: number, low: number, high: number): number {
  if (Number.isInteger(value) && value >= low && value <= high) return value;
  throw configurationError(`${name}: ${value} is not a whole number from ${low} to ${high}`);
}

function configurationError(message: string): DeviceError {
  return new DeviceError('ERR_DEVICE_CONFIGURATION', `network device: ${message}`);
}
