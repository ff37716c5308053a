import { DeviceError } from '../../errors.js';
import { encodeToBytes } from '../../wire/index.js';
import {
  NetControlAck,
  NetControlAnnounce,
  NetControlClass,
  NetControlHeader,
  NetControlMac,
  NetControlMq,
  NetControlRx,
  NetControlVlan,
  NetMacAddress,
  NetMacTable,
  NetVlanId,
  NetVqPairs,
} from '../../../generated/virtio/devices/net/layouts.js';
import type { DriverQueue } from '../driver-queue.js';
import type { ReceiveMode } from './control-state.js';

/**
 * The driver's commands (virtio 1.4, 5.1.6.5). One that is refused rejects with DeviceError (ERR_DEVICE_REQUEST).
 *
 * The front-end in front of a vhost-user back-end answers them. Of receive modes, addresses and VLANs it only takes note (see
 * ControlState): nothing is filtered, here or in the back-end, and whatever the back-end delivers is received.
 */
export class NetControl {
  readonly queue: DriverQueue;

  constructor(queue: DriverQueue) {
    this.queue = queue;
  }

  /** Uses the first `count` pairs of queues. */
  async setQueuePairs(count: number, signal?: AbortSignal): Promise<void> {
    const data = encodeToBytes(NetVqPairs, { virtqueuePairs: count });
    await this.command('use of queue pairs', NetControlClass.mq, NetControlMq.vqPairsSet, data, signal);
  }

  async setReceive(mode: ReceiveMode, on: boolean, signal?: AbortSignal): Promise<void> {
    const data = Uint8Array.of(on ? 1 : 0);
    await this.command(`receive mode ${mode}`, NetControlClass.rx, NetControlRx[mode], data, signal);
  }

  /** `mac`: six bytes. */
  async setMac(mac: Uint8Array, signal?: AbortSignal): Promise<void> {
    const data = encodeToBytes(NetMacAddress, { address: mac });
    await this.command('address', NetControlClass.mac, NetControlMac.addrSet, data, signal);
  }

  async setMacTable(
    unicast: readonly Uint8Array[],
    multicast: readonly Uint8Array[],
    signal?: AbortSignal,
  ): Promise<void> {
    const tables = [unicast, multicast].map((macs) =>
      encodeToBytes(NetMacTable, { macs: macs.map((address) => ({ address })) }),
    );
    const data = new Uint8Array(Buffer.concat(tables));
    await this.command('address table', NetControlClass.mac, NetControlMac.tableSet, data, signal);
  }

  async addVlan(vlan: number, signal?: AbortSignal): Promise<void> {
    const data = encodeToBytes(NetVlanId, { vlan });
    await this.command(`VLAN ${vlan}`, NetControlClass.vlan, NetControlVlan.add, data, signal);
  }

  async removeVlan(vlan: number, signal?: AbortSignal): Promise<void> {
    const data = encodeToBytes(NetVlanId, { vlan });
    await this.command(`VLAN ${vlan}`, NetControlClass.vlan, NetControlVlan.del, data, signal);
  }

  /** The driver has announced itself. */
  async acknowledgeAnnouncement(signal?: AbortSignal): Promise<void> {
    const data = new Uint8Array(0);
    await this.command('announcement', NetControlClass.announce, NetControlAnnounce.ack, data, signal);
  }

  /** Any command. `what` names it in an error. */
  async command(
    what: string,
    subject: number,
    command: number,
    data: Uint8Array,
    signal?: AbortSignal,
  ): Promise<void> {
    const header = encodeToBytes(NetControlHeader, { class: subject, command });
    const readable = data.length === 0 ? [header] : [header, data];
    const { buffers } = await this.queue.transfer(readable, [1], signal === undefined ? {} : { signal });
    const ack = buffers[0]![0]!;
    if (ack === NetControlAck.ok) return;
    throw new DeviceError('ERR_DEVICE_REQUEST', `${what}: refused (${ack})`);
  }
}
