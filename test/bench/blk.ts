/**
 * 4 KiB random reads and writes: our daemon against qemu-storage-daemon, each a process of its own on its own image,
 * driven by the same front-end in this process, in alternation. Each round gives one ratio; machines that are shared slow
 * both down. Processor time a request is steadier than throughput and stands beside it.
 */
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, statfsSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import { BlockClient, MockDriver } from '../../runtime/testing/index.js';
import { readCommandLine, someOf } from '../support/command-line.js';
import { Random } from '../support/random.js';
import { repositoryRoot } from '../support/repository.js';
import { BackendProcess } from './blk/backend-process.js';

const BLOCK_BYTES = 4096;
const DEPTHS = [1, 32, 128] as const;
const OPERATIONS = ['read', 'write'] as const;
const MEDIA = ['null', 'tmpfs', 'page cache'] as const;
const NAMES = ['split', 'packed', 'qsd'] as const;
const TMPFS_MAGIC = 0x01021994;
/** What is to be reached: tmpfs reads at depth 32. */
const TARGET = 1.5;

type Medium = (typeof MEDIA)[number];
type Operation = (typeof OPERATIONS)[number];

/** A back-end with a driver on it, and what it has done in the current measurement. */
interface Contender {
  readonly name: (typeof NAMES)[number];
  readonly backend: BackendProcess;
  readonly driver: MockDriver;
  readonly disk: BlockClient;
}

interface Row {
  readonly medium: Medium;
  readonly operation: Operation;
  readonly depth: number;
  /** Thousand requests a second, medians. */
  readonly kiops: Record<Contender['name'], number>;
  /** Back-end's processor time a request in microseconds, over all rounds. */
  readonly cpu: Record<Contender['name'], number>;
  /** Ours to theirs, round by round: median, smallest, largest. */
  readonly ratio: Record<'split' | 'packed', Spread>;
}

interface Spread {
  readonly median: number;
  readonly min: number;
  readonly max: number;
}

interface Settings {
  readonly rounds: number;
  readonly sampleSeconds: number;
  readonly diskBytes: number;
  readonly poll: boolean;
}

export async function benchBlk(args: readonly string[]): Promise<void> {
  const { values } = readCommandLine({
    args: [...args],
    options: {
      json: { type: 'boolean' },
      quick: { type: 'boolean', default: false },
      poll: { type: 'boolean', default: false },
      medium: { type: 'string', multiple: true },
    },
  });
  const media = someOf('medium', values.medium, MEDIA);
  const { quick, poll } = values;
  const settings: Settings = {
    rounds: quick ? 3 : 11,
    sampleSeconds: quick ? 0.06 : 0.15,
    diskBytes: quick ? 64 << 20 : 256 << 20,
    poll,
  };
  const rows: Row[] = [];
  for (const medium of media) rows.push(...(await measureMedium(medium, settings)));
  if (values.json === true) {
    const { rounds, diskBytes } = settings;
    console.log(
      JSON.stringify(
        { node: process.versions.node, arch: process.arch, rounds, diskBytes, poll, rows },
        null,
        2,
      ),
    );
  } else {
    print(rows, settings);
  }
}

async function measureMedium(medium: Medium, settings: Settings): Promise<Row[]> {
  const folder = mkdtempSync(join(folderFor(medium), 'vhost-user-bench-'));
  const contenders: Contender[] = [];
  try {
    if (medium !== 'null') makeImages(folder, settings.diskBytes);
    for (const name of NAMES) {
      const backend = await startBackend(name, medium, folder, settings.diskBytes);
      const driver = await MockDriver.start({
        platform: createLinuxPlatform(),
        path: backend.socketPath,
        format: name === 'packed' ? 'packed' : 'split',
        signal: AbortSignal.timeout(20_000),
      });
      contenders.push({ name, backend, driver, disk: new BlockClient(driver.queues[0]!) });
    }
    const rows: Row[] = [];
    for (const operation of OPERATIONS) {
      for (const depth of DEPTHS) rows.push(await measure(medium, operation, depth, contenders, settings));
    }
    return rows;
  } finally {
    for (const { driver, backend } of contenders) {
      driver.close();
      await backend[Symbol.asyncDispose]();
    }
    rmSync(folder, { recursive: true, force: true });
  }
}

async function measure(
  medium: Medium,
  operation: Operation,
  depth: number,
  contenders: readonly Contender[],
  { rounds, sampleSeconds, diskBytes, poll }: Settings,
): Promise<Row> {
  const random = new Random(depth);
  const positions = Float64Array.from(
    { length: 8192 },
    () => random.below(diskBytes / BLOCK_BYTES) * BLOCK_BYTES,
  );
  const run = (disk: BlockClient, requests: number) =>
    disk.run({ operation, positions, blockLength: BLOCK_BYTES, depth, requests, poll, indirect: true });

  // Warms everything up, and finds how many requests fill a sample.
  const requests = new Map<Contender, number>();
  for (const contender of contenders) {
    await run(contender.disk, 50 * depth);
    const trial = await run(contender.disk, 1000 + 50 * depth);
    requests.set(contender, Math.ceil((trial.requests / trial.seconds) * sampleSeconds));
  }
  const rates = new Map<Contender, number[]>(contenders.map((each) => [each, []]));
  const cpu = new Map<Contender, number>(contenders.map((each) => [each, 0]));
  for (let round = 0; round < rounds; round++) {
    // Everyone's turn to go first, and everyone's to follow everyone: what one leaves behind, e.g. dirty pages, hits all.
    const order = contenders.map((_, i) => contenders[(i + round) % contenders.length]!);
    if (round % 2 === 1) order.reverse();
    for (const contender of order) {
      const before = contender.backend.cpuSeconds();
      const result = await run(contender.disk, requests.get(contender)!);
      cpu.set(contender, cpu.get(contender)! + contender.backend.cpuSeconds() - before);
      rates.get(contender)!.push(result.requests / result.seconds);
    }
  }
  const byName = <Value>(of: (contender: Contender) => Value) =>
    Object.fromEntries(contenders.map((each) => [each.name, of(each)])) as Record<Contender['name'], Value>;
  const theirs = rates.get(contenders.find((each) => each.name === 'qsd')!)!;
  const ratio = (contender: Contender) => spread(rates.get(contender)!.map((rate, i) => rate / theirs[i]!));
  return {
    medium,
    operation,
    depth,
    kiops: byName((each) => spread(rates.get(each)!).median / 1000),
    cpu: byName((each) => (cpu.get(each)! / (requests.get(each)! * rounds)) * 1e6),
    ratio: byName(ratio),
  };
}

/**
 * Real pages, not holes, in the page cache from the start, and on the medium: a file that was just written is quicker to
 * write to than one whose blocks are allocated and clean, so all of them must be the latter. Written block by block: a long
 * write leaves large folios in the page cache, and of such a one ext4 goes through every block at each small write, which
 * costs ten times the write and hides all else.
 */
function makeImages(folder: string, diskBytes: number): void {
  const content = Buffer.alloc(BLOCK_BYTES, 0x5a);
  for (const name of NAMES) {
    const fd = openSync(imagePath(folder, name), 'w');
    for (let position = 0; position < diskBytes; position += BLOCK_BYTES) writeSync(fd, content);
    fsyncSync(fd);
    closeSync(fd);
  }
}

function imagePath(folder: string, name: Contender['name']): string {
  return join(folder, `${name}.img`);
}

async function startBackend(
  name: Contender['name'],
  medium: Medium,
  folder: string,
  diskBytes: number,
): Promise<BackendProcess> {
  const socket = join(folder, `${name}.sock`);
  const image = imagePath(folder, name);
  const built = join(repositoryRoot(), 'build');
  if (name === 'qsd') {
    const blockdev =
      medium === 'null'
        ? `driver=null-co,node-name=disk,size=${diskBytes},read-zeroes=off`
        : `driver=file,node-name=disk,filename=${image},aio=`;
    const target = `type=vhost-user-blk,id=export,node-name=disk,addr.type=unix,addr.path=${socket},writable=on`;
    const start = (aio: string) =>
      BackendProcess.start('qemu-storage-daemon', ['--blockdev', blockdev + aio, '--export', target], socket);
    if (medium === 'null') return start('');
    // Its best: io_uring where the kernel has it, else its default.
    return start('io_uring').catch(() => start('threads'));
  }
  const program =
    medium === 'null'
      ? [join(built, 'test/bench/blk/null-server.js'), socket, String(diskBytes)]
      : [join(built, 'runtime/bin/vhost-user-blk.js'), `--socket-path=${socket}`, `--blk-file=${image}`];
  return BackendProcess.start(process.execPath, program, socket);
}

/** A folder on the medium. The page cache is a real file system's, so a temporary folder in memory does not do. */
function folderFor(medium: Medium): string {
  if (medium !== 'page cache') return '/dev/shm';
  const candidates = [tmpdir(), join(repositoryRoot(), 'build')];
  const found = candidates.find((folder) => statfsSync(folder).type !== TMPFS_MAGIC);
  if (found === undefined)
    throw new Error(`${candidates.join(' and ')} are in memory: no page cache to measure`);
  return found;
}

function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: sorted[sorted.length >> 1]!, min: sorted[0]!, max: sorted.at(-1)! };
}

function print(rows: readonly Row[], { rounds, poll, diskBytes }: Settings): void {
  console.log(
    `4 KiB random requests on ${diskBytes >> 20} MiB; ${rounds} rounds in alternation; the driver ` +
      `${poll ? 'spins' : 'waits for calls'}; Node ${process.versions.node}\n` +
      'qsd: qemu-storage-daemon (split rings only); ratios: ours to qsd, median (smallest–largest); ' +
      'cpu: the back-end process, µs a request\n',
  );
  const head = [
    'medium',
    'request',
    'depth',
    'split k/s',
    'packed k/s',
    'qsd k/s',
    'split:qsd',
    'packed:qsd',
    'cpu split',
    'packed',
    'qsd',
  ];
  const cells = rows.map((row) => [
    row.medium,
    row.operation,
    String(row.depth),
    ...[row.kiops.split, row.kiops.packed, row.kiops.qsd].map((value) => value.toFixed(1)),
    ...[row.ratio.split, row.ratio.packed].map(formatSpread),
    ...[row.cpu.split, row.cpu.packed, row.cpu.qsd].map((value) => value.toFixed(2)),
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i]!.length)));
  for (const line of [head, ...cells]) {
    console.log(
      line.map((cell, i) => (i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
    );
  }
  const aim = rows.find((row) => row.medium === 'tmpfs' && row.operation === 'read' && row.depth === 32);
  if (aim === undefined) return;
  const { median } = aim.ratio.split;
  console.log(
    `\ntmpfs reads at depth 32: ${median.toFixed(2)}x, to be reached ${TARGET}x: ${median >= TARGET ? 'reached' : 'MISSED'}`,
  );
}

function formatSpread({ median, min, max }: Spread): string {
  return `${median.toFixed(2)} (${min.toFixed(2)}–${max.toFixed(2)})`;
}
