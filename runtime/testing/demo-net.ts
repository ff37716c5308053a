import { NetClient, type QueuePair } from '../drivers/net/net-client.js';
import { PACKET_STRIDE, PacketField, PacketTable } from '../drivers/net/packet-table.js';
import type { Platform } from '../platform/platform.js';
import { table } from './text-table.js';

const PAIRS = 2;
const PACKETS = 100_000;
const LENGTHS = [64, 1500];
const BURST = 32;
/** Packets on their way at most: as many as the card has buffers for. */
const UNDER_WAY = 128;
/** Bytes of an Ethernet header; the packet's number and pattern stand behind it, on a word boundary (16). */
const PATTERN_AT = 16;

/**
 * The demo's network part: bursts go to a card that sends everything back, over both ring formats and two pairs of queues,
 * and every packet is compared byte by byte.
 */
export async function demoNet(platform: Platform, path: string, signal: AbortSignal): Promise<void> {
  console.log(`\nA network card that echoes, behind ${path}\n`);
  const rows: string[][] = [];
  for (const format of ['split', 'packed'] as const) {
    using client = await NetClient.start({ platform, path, format, queuePairs: PAIRS, signal });
    for (const length of LENGTHS) {
      for (const [index, pair] of client.pairs.entries()) {
        rows.push([format, String(index), ...(await echo(client, pair, length, signal))]);
      }
    }
  }
  console.log(
    table(['ring', 'pair', 'bytes', 'packets', 'which are', 'Mpps', 'Gbit/s', 'kicks', 'calls'], rows),
  );
  console.log(
    '\nEvery packet came back once, in order and as it was sent (the times include making and comparing it).',
  );
}

/** Sends and receives `PACKETS` packets on one pair. Throws at the first one that is not as it was sent. */
async function echo(
  client: NetClient,
  { receiver, transmitter }: QueuePair,
  length: number,
  signal: AbortSignal,
): Promise<string[]> {
  const { windows } = client.memory.platform;
  const out = new PacketTable(BURST);
  const back = new PacketTable(BURST);
  const notified = (): number[] => [
    receiver.queue.kicks + transmitter.queue.kicks,
    receiver.queue.calls + transmitter.queue.calls,
  ];
  const [kicks, calls] = notified();
  const begin = performance.now();
  let sent = 0;
  let received = 0;
  while (received < PACKETS) {
    const count = Math.min(BURST, PACKETS - sent, UNDER_WAY - (sent - received));
    if (count > 0 && transmitter.reserve(out, count) > 0) {
      for (let row = 0; row < out.count; row++) {
        fill(windows.u8[out.segments[row * 4]!]!, out.segments[row * 4 + 1]!, length, sent++);
        out.packets[row * PACKET_STRIDE + PacketField.length] = length;
      }
      transmitter.send(out);
    }
    if (receiver.receive(back) === 0) {
      if (count === 0) await receiver.ready(signal);
      continue;
    }
    for (let row = 0; row < back.count; row++) {
      const at = row * PACKET_STRIDE;
      const segment = back.packets[at + PacketField.firstSegment]! * 4;
      const bytes = windows.u8[back.segments[segment]!]!;
      const found = back.packets[at + PacketField.length]!;
      if (found !== length) throw new Error(`packet ${received}: ${found} bytes came back of ${length}`);
      check(bytes, back.segments[segment + 1]!, length, received++);
    }
    receiver.release(back);
  }
  const seconds = (performance.now() - begin) / 1000;
  await transmitter.drained(signal);
  const [kicksAfter, callsAfter] = notified();
  return [
    String(length),
    String(received),
    'sent, echoed, verified',
    (received / seconds / 1e6).toFixed(2),
    ((received * length * 8) / seconds / 1e9).toFixed(2),
    String(kicksAfter! - kicks!),
    String(callsAfter! - calls!),
  ];
}

/** A byte of the pattern: different in every place and every packet. */
function pattern(number: number, place: number): number {
  return (Math.imul(number + place, 0x85eb_ca6b) >>> 13) & 0xff;
}

/** A packet between two stations of nobody's, of a type that is set aside for experiments. */
const HEADER = [2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 0x88, 0xb5, 0, 0];

function fill(bytes: Uint8Array, offset: number, length: number, number: number): void {
  for (let i = 0; i < PATTERN_AT; i++) bytes[offset + i] = HEADER[i]!;
  for (let i = PATTERN_AT; i < length; i++) bytes[offset + i] = pattern(number, i);
}

function check(bytes: Uint8Array, offset: number, length: number, number: number): void {
  for (let i = 0; i < length; i++) {
    const expected = i < PATTERN_AT ? HEADER[i]! : pattern(number, i);
    if (bytes[offset + i] === expected) continue;
    throw new Error(
      `packet ${number} came back with ${bytes[offset + i]} as byte ${i}, ${expected} was sent`,
    );
  }
}
