/**
 * A device's queue with the log on, driven at random: completions out of order, in batches and alone, held back for their order,
 * over both ring formats. Whatever page of memory a step of the device changed must be marked once nothing is in flight. Seeded.
 */
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { DIRTY_PAGE, DirtyLog } from '../../runtime/memory/dirty-log.js';
import { ChainBatch } from '../../runtime/virtqueue/chain-batch.js';
import { type Buffer as Piece, chainOf, randomChain, Rig, type RigOptions } from './property-rig.js';
import { Random } from '../support/random.js';

const test = suite('dirty log properties');

/** Reaches to the rig's last region, at 6 GiB. */
const LOG_BYTES = 0x1_8010_0000 / DIRTY_PAGE / 8;

function drive(options: RigOptions, seed: number, chains: number): void {
  const random = new Random(seed);
  const rig = new Rig(options);
  const { driver, device, platform, memory } = rig;
  const addresses = memory.windowAddresses();
  const fd = platform.createSharedMemory('log', BigInt(LOG_BYTES));
  const log = DirtyLog.map(platform, fd, 0n, BigInt(LOG_BYTES));
  const bits = platform.map(fd, 0n, BigInt(LOG_BYTES));
  const marks = platform.windows.u8[bits.firstWindow]!;
  const place = ({ window, offset }: { window: number; offset: number }): number =>
    addresses[window]! + offset;
  device.setLog({
    writer: log,
    windowAddresses: addresses,
    descriptor: options.format === 'packed' ? [place(rig.areas.descriptor)] : [],
    device: [place(rig.areas.device)],
  });
  const changed = new Set<number>();
  const windows = memory.regions.map(({ mapping }) => mapping.firstWindow);
  const copies = new Map(windows.map((window) => [window, platform.windows.u8[window]!.slice()]));

  /** Runs a step of the device and notes the pages that it changed. */
  const watched = (step: () => void, data: boolean): void => {
    const looked = data ? windows : windows.slice(0, 1);
    for (const window of looked) copies.get(window)!.set(platform.windows.u8[window]!);
    step();
    for (const window of looked) {
      const [before, now] = [copies.get(window)!, platform.windows.u8[window]!];
      for (let at = 0; at < now.byteLength; at += DIRTY_PAGE) {
        if (Buffer.compare(before.subarray(at, at + DIRTY_PAGE), now.subarray(at, at + DIRTY_PAGE)) !== 0) {
          changed.add(addresses[window]! + at);
        }
      }
    }
  };
  const fill = (buffers: readonly Piece[]): void => {
    for (const { window, offset, length, writable } of buffers) {
      if (writable) platform.windows.u8[window]!.fill(1 + random.below(255), offset, offset + length);
    }
  };

  const held: { handle: number; buffers: Piece[] }[] = [];
  let added = 0;
  for (let round = 0; added < chains; round++) {
    for (let n = 1 + random.below(Math.min(options.size, 100)); n > 0; n--) {
      if (
        rig.add(
          randomChain(random, rig, Math.min(options.size, 6)),
          (options.indirectCapacity ?? 0) > 0 && random.chance(2),
        ) < 0
      )
        break;
      added++;
    }
    driver.publish();
    const max = 1 + random.below(options.size);
    const batch = new ChainBatch(max, max * 20 + 100);
    watched(() => device.disableNotifications(), false);
    const count = device.drain(batch, max);
    const taken = Array.from({ length: count }, (_, row) => chainOf(batch, row));
    watched(() => taken.forEach(({ buffers }) => fill(buffers)), true);
    // What is reported is less than what was written: a failed read has its status byte behind the data.
    if (random.chance(2)) {
      batch.written.fill(0, 0, count);
      watched(() => device.pushBatch(batch, count), false);
    } else {
      held.push(...taken);
    }
    for (let n = random.below(6); n > 0 && held.length > 0; n--) {
      const [chain] = held.splice(random.below(held.length), 1);
      watched(() => device.complete(chain!.handle, 0), false);
    }
    watched(() => device.publish(), false);
    watched(() => void device.enableNotifications(), false);
    rig.collect();
    if (!random.chance(4)) continue;
    for (const { handle } of held.splice(0)) watched(() => device.complete(handle, 0), false);
    watched(() => device.publish(), false);
    rig.collect();
    assert.is(device.broken, null);
    if (device.inFlight > 0) continue;
    const missed = [...changed].filter((address) => !isMarked(marks, address));
    assert.equal(missed, [], `seed ${seed}, round ${round}`);
    changed.clear();
    marks.fill(0);
  }
  log[Symbol.dispose]();
  bits.unmap();
  platform.closeFd(fd);
}

function isMarked(marks: Uint8Array, address: number): boolean {
  const page = Math.floor(address / DIRTY_PAGE);
  return (marks[Math.floor(page / 8)]! & (1 << (page % 8))) !== 0;
}

for (const format of ['split', 'packed'] as const) {
  for (const size of format === 'split' ? [1, 16, 1024] : [1, 7, 16, 1000]) {
    for (const inOrder of [false, true]) {
      const options = {
        format,
        size,
        inOrder,
        eventIdx: inOrder !== (size === 16),
        indirectCapacity: size === 16 ? 16 : 0,
        spread: true,
      };
      test(`${format} ring of ${size}${inOrder ? ', in order' : ''}: every page that the device changed is marked`, () => {
        for (let seed = 1; seed <= 2; seed++) drive(options, seed, Math.max(120, 5 * size));
      });
    }
  }
}

test.run();
