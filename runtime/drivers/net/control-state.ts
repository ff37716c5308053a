import { WireError } from '../../errors.js';
import { type Codec, decodeExactly, WireReader } from '../../wire/index.js';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
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

export type ReceiveMode = keyof typeof NetControlRx;

/** What a command needs of the front-end. */
export interface ControlTarget {
  /** Has this many queue pairs enabled; rejects when there are not so many. */
  enableQueuePairs(count: number): Promise<void>;
}

const VLANS = 4096;
/** Commands of class rx that came with the first version; the others need ctrl-rx-extra. */
const FIRST_MODES: readonly number[] = [NetControlRx.promisc, NetControlRx.allmulti];

/**
 * What the driver has asked for by command (virtio 1.4, 5.1.6.5), and the answers. Filters are remembered and not carried
 * out, as a device may that receives too much; only queue pairs reach the back-end.
 */
export class ControlState {
  readonly receive = new Map<ReceiveMode, boolean>();
  /** The address set by the driver, null before. */
  mac: Uint8Array | null = null;
  unicast: readonly Uint8Array[] = [];
  multicast: readonly Uint8Array[] = [];
  readonly vlans = new Set<number>();
  /** Announcements that the driver has acknowledged. */
  announcements = 0;
  queuePairs = 1;
  readonly #features: bigint;
  readonly #target: ControlTarget;

  /** `features` are the driver's: a command that needs another one is refused. */
  constructor(features: bigint, target: ControlTarget) {
    this.#features = features;
    this.#target = target;
  }

  /** Carries out one command, given as the readable part of its chain. */
  async answer(bytes: Uint8Array): Promise<NetControlAck> {
    try {
      const { class: subject, command } = decodeExactly(NetControlHeader, bytes.subarray(0, 2));
      const done = await this.#carryOut(subject, command, bytes.slice(2));
      return done ? NetControlAck.ok : NetControlAck.err;
    } catch (error) {
      // A command that does not decode is the driver's fault and gets its answer like any other.
      if (error instanceof WireError) return NetControlAck.err;
      throw error;
    }
  }

  async #carryOut(subject: number, command: number, data: Uint8Array): Promise<boolean> {
    switch (subject) {
      case NetControlClass.rx:
        return this.#setReceive(command, data);
      case NetControlClass.mac:
        return this.#setMac(command, data);
      case NetControlClass.vlan:
        return this.#has(NetFeature.ctrlVlan) && this.#setVlan(command, decodeExactly(NetVlanId, data).vlan);
      case NetControlClass.announce:
        if (!this.#has(NetFeature.guestAnnounce) || command !== NetControlAnnounce.ack) return false;
        this.announcements++;
        return true;
      case NetControlClass.mq:
        return this.#has(NetFeature.mq) && (await this.#setQueuePairs(command, data));
      default:
        return false;
    }
  }

  #setReceive(command: number, data: Uint8Array): boolean {
    const mode = (Object.keys(NetControlRx) as ReceiveMode[]).find((each) => NetControlRx[each] === command);
    const needed = FIRST_MODES.includes(command) ? NetFeature.ctrlRx : NetFeature.ctrlRxExtra;
    if (mode === undefined || !this.#has(needed) || data.length !== 1 || data[0]! > 1) return false;
    this.receive.set(mode, data[0] === 1);
    return true;
  }

  #setMac(command: number, data: Uint8Array): boolean {
    if (command === NetControlMac.addrSet && this.#has(NetFeature.ctrlMacAddr)) {
      this.mac = decodeExactly(NetMacAddress, data).address;
      return true;
    }
    if (command !== NetControlMac.tableSet || !this.#has(NetFeature.ctrlRx)) return false;
    const reader = new WireReader(data);
    const [unicast, multicast] = [tableFrom(NetMacTable, reader), tableFrom(NetMacTable, reader)];
    reader.end('net-mac-table');
    this.unicast = unicast;
    this.multicast = multicast;
    return true;
  }

  #setVlan(command: number, vlan: number): boolean {
    if (vlan >= VLANS) return false;
    if (command === NetControlVlan.add) this.vlans.add(vlan);
    else if (command === NetControlVlan.del) this.vlans.delete(vlan);
    else return false;
    return true;
  }

  async #setQueuePairs(command: number, data: Uint8Array): Promise<boolean> {
    if (command !== NetControlMq.vqPairsSet) return false;
    const { virtqueuePairs } = decodeExactly(NetVqPairs, data);
    try {
      await this.#target.enableQueuePairs(virtqueuePairs);
    } catch {
      // There are not so many, or the back-end is gone; the driver learns the latter from its queues.
      return false;
    }
    this.queuePairs = virtqueuePairs;
    return true;
  }

  #has(feature: bigint): boolean {
    return (this.#features & feature) !== 0n;
  }
}

function tableFrom(codec: Codec<NetMacTable>, reader: WireReader): Uint8Array[] {
  return codec.decode(reader).macs.map(({ address }) => address.slice());
}
