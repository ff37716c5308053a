/**
 * `npm run demo`: serves a RAM disk and a network card over real Unix sockets and drives them through the front-end, over
 * split and packed rings: every block is written and read back, at several queue depths, every packet is sent and echoed,
 * and all of it is compared.
 */
import { once } from 'node:events';
import { mkdtempSync, rmSync } from 'node:fs';
import { availableParallelism, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Worker } from 'node:worker_threads';
import { VirtioDriver } from '../drivers/virtio-driver.js';
import { createLinuxPlatform } from '../platform/linux.js';
import type { Platform } from '../platform/platform.js';
import { BlockClient } from '../drivers/blk/block-client.js';
import type { BlockBatchResult } from '../drivers/blk/block-pipeline.js';
import { demoNet } from './demo-net.js';
import { table } from './text-table.js';

const DISK_BYTES = 64 << 20;
const BLOCK_BYTES = 4096;
const DEPTHS = [1, 32, 128];
/** Nothing here takes a fraction of this; a hang must still end. */
const LIMIT_MS = 300_000;

try {
  await demo();
} catch (error) {
  console.error(`demo failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}`);
  process.exitCode = 1;
}

async function demo(): Promise<void> {
  const folder = mkdtempSync(join(tmpdir(), 'vhost-user-demo-'));
  const platform = createLinuxPlatform();
  const signal = AbortSignal.timeout(LIMIT_MS);
  try {
    const disk = join(folder, 'disk.sock');
    await withServer(disk, DISK_BYTES, () => demoBlock(platform, disk, signal));
    const card = join(folder, 'net.sock');
    await withServer(card, 0, () => demoNet(platform, card, signal));
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** The device has a thread of its own, as a virtual machine's would have a process of its own. */
async function withServer(path: string, bytes: number, use: () => Promise<void>): Promise<void> {
  const server = new Worker(fileURLToPath(new URL('./demo-server.js', import.meta.url)), {
    workerData: { path, bytes },
  });
  const exit = new Promise((resolve) => server.once('exit', resolve));
  try {
    await once(server, 'message');
    await use();
  } finally {
    server.postMessage('close');
    await exit;
  }
}

async function demoBlock(platform: Platform, path: string, signal: AbortSignal): Promise<void> {
  console.log(
    `A RAM disk of ${DISK_BYTES >> 20} MiB behind ${path}, ${availableParallelism()} processors, Node ${process.versions.node}\n`,
  );
  const rows: string[][] = [];
  let pass = 0;
  for (const format of ['split', 'packed'] as const) {
    using driver = await VirtioDriver.start({
      platform,
      path,
      format,
      signal,
      memory: { size: 8 << 20, regions: 2 },
    });
    const disk = new BlockClient(driver.queues[0]!);
    const { capacity } = await BlockClient.configuration(driver, signal);
    if (capacity * 512n !== BigInt(DISK_BYTES) || driver.format !== format) {
      throw new Error(
        `expected ${DISK_BYTES} bytes over ${format} rings, got ${capacity * 512n} over ${driver.format}`,
      );
    }
    for (const depth of DEPTHS) {
      // Every pass writes other bytes, so that nothing left from the one before can pass for right.
      const salt = ++pass * 0x9e3779b1;
      const positions = shuffledBlocks(pass);
      const common = { positions, blockLength: BLOCK_BYTES, depth, indirect: depth > 1, signal };
      const written = await disk.run({
        ...common,
        operation: 'write',
        fill: (words, first, position) => fillBlock(words, first, position, salt),
      });
      await disk.flush({ signal });
      const read = await disk.run({
        ...common,
        operation: 'read',
        check: (words, first, position) => checkBlock(words, first, position, salt),
      });
      rows.push(row(format, depth, 'write', written), row(format, depth, 'read', read));
    }
  }
  const head = ['ring', 'depth', 'requests', 'which are', 'MB/s', 'µs/request', 'kicks', 'calls'];
  console.log(table(head, rows));
  console.log(
    `\nEvery block of every pass was as written (${pass} passes of ${DISK_BYTES >> 20} MiB). The times\n` +
      'include making and comparing the data; the driver sleeps between calls, the disk has a thread of its own.',
  );
}

function row(format: string, depth: number, operation: string, result: BlockBatchResult): string[] {
  return [
    format,
    String(depth),
    String(result.requests),
    operation === 'read' ? 'read, verified' : 'written',
    (result.bytes / result.seconds / 1e6).toFixed(0),
    ((result.seconds / result.requests) * 1e6).toFixed(1),
    String(result.kicks),
    String(result.calls),
  ];
}

/** Every block's position once, in an order that a fixed seed gives. */
function shuffledBlocks(seed: number): Float64Array {
  const count = DISK_BYTES / BLOCK_BYTES;
  const positions = Float64Array.from({ length: count }, (_, i) => i * BLOCK_BYTES);
  let state = seed;
  for (let i = count - 1; i > 0; i--) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    const j = state % (i + 1);
    const other = positions[j]!;
    positions[j] = positions[i]!;
    positions[i] = other;
  }
  return positions;
}

/** A word of the pattern: different in every place and every pass. */
function pattern(position: number, word: number, salt: number): number {
  return (Math.imul((position >>> 2) + word, 0x85ebca6b) ^ salt) >>> 0;
}

function fillBlock(words: Uint32Array, first: number, position: number, salt: number): void {
  for (let i = 0; i < BLOCK_BYTES / 4; i++) words[first + i] = pattern(position, i, salt);
}

function checkBlock(words: Uint32Array, first: number, position: number, salt: number): void {
  for (let i = 0; i < BLOCK_BYTES / 4; i++) {
    if (words[first + i] === pattern(position, i, salt)) continue;
    throw new Error(
      `byte ${position + i * 4} of the disk reads as 0x${words[first + i]!.toString(16)}, ` +
        `0x${pattern(position, i, salt).toString(16)} was written there`,
    );
  }
}
