/**
 * `npm run bench -- start`: how long `vhost-user-blk` takes from its start until it listens, and until it has served a first
 * request, which is what a guest waits for when a killed one is replaced.
 */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { BlockClient } from '../../runtime/drivers/blk/block-client.js';
import { VirtioDriver } from '../../runtime/drivers/virtio-driver.js';
import { readCommandLine } from '../support/command-line.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import type { Platform, SocketStream } from '../../runtime/platform/platform.js';

const PROGRAM = fileURLToPath(new URL('../../runtime/bin/vhost-user-blk.js', import.meta.url));

export async function benchStart(args: readonly string[]): Promise<void> {
  const { values } = readCommandLine({
    args: [...args],
    options: { json: { type: 'boolean', default: false }, quick: { type: 'boolean', default: false } },
  });
  const folder = mkdtempSync(join(tmpdir(), 'vhost-user-start-'));
  const platform = createLinuxPlatform();
  const times = { node: [] as number[], listening: [] as number[], served: [] as number[] };
  try {
    const image = join(folder, 'image');
    writeFileSync(image, '');
    truncateSync(image, 64 << 20);
    for (let round = 0; round < (values.quick ? 5 : 20); round++) {
      times.node.push(await bareNode());
      const { listening, served } = await oneStart(platform, join(folder, `socket-${round}`), image);
      times.listening.push(listening);
      times.served.push(served);
    }
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
  const rows = Object.entries(times).map(([name, all]) => ({ name, ...quartiles(all) }));
  if (values.json) {
    console.log(JSON.stringify(rows));
    return;
  }
  const meaning: Record<string, string> = {
    node: 'node alone, from start to end',
    listening: 'vhost-user-blk, from start until it takes a connection',
    served: 'from start until a first read of 4 KiB is served',
  };
  for (const { name, low, median, high } of rows) {
    console.log(
      `${meaning[name]!.padEnd(56)} ${median.toFixed(0)} ms (${low.toFixed(0)}–${high.toFixed(0)})`,
    );
  }
}

async function bareNode(): Promise<number> {
  const begin = performance.now();
  await once(spawn(process.execPath, ['-e', '0'], { stdio: 'ignore' }), 'exit');
  return performance.now() - begin;
}

async function oneStart(
  platform: Platform,
  socketPath: string,
  image: string,
): Promise<{ listening: number; served: number }> {
  const begin = performance.now();
  const child = spawn(process.execPath, [PROGRAM, `--socket-path=${socketPath}`, `--blk-file=${image}`], {
    stdio: 'ignore',
  });
  try {
    const stream = await connected(platform, socketPath, () => child.exitCode);
    const listening = performance.now() - begin;
    using driver = await VirtioDriver.start({ platform, stream });
    await new BlockClient(driver.queues[0]!).read(0, 4096);
    return { listening, served: performance.now() - begin };
  } finally {
    child.kill('SIGKILL');
    if (child.exitCode === null && child.signalCode === null) await once(child, 'exit');
  }
}

async function connected(
  platform: Platform,
  path: string,
  exitCode: () => number | null,
): Promise<SocketStream> {
  for (;;) {
    try {
      return await platform.connect(path);
    } catch (error) {
      if (exitCode() !== null) throw error;
      await sleep(1);
    }
  }
}

function quartiles(all: readonly number[]): { low: number; median: number; high: number } {
  const sorted = [...all].sort((a, b) => a - b);
  const at = (share: number): number => sorted[Math.floor((sorted.length - 1) * share)]!;
  return { low: at(0.25), median: at(0.5), high: at(0.75) };
}
