/**
 * Packets through a network back-end: our daemon against testpmd's net_vhost, each behind a testpmd of its own with
 * net_virtio_user, in alternation on the same two processors. Each round gives one ratio; machines that are shared slow
 * both down.
 */
import { availableParallelism } from 'node:os';
import { TemporaryFolder } from '../support/guest/processes.js';
import { readCommandLine, someOf } from '../support/command-line.js';
import { testpmdPath } from '../support/testpmd.js';
import {
  Contender,
  type Direction,
  DIRECTIONS,
  type Format,
  type Name,
  type Sample,
} from './net/contender.js';

const FORMATS: readonly Format[] = ['split', 'packed'];
/** Bytes of a packet, and the part of DPDK's rate that is to be reached with it. */
const LENGTHS = [
  { length: 64, target: 0.5 },
  { length: 1500, target: 0.8 },
] as const;
const CORES = 3;

interface Row {
  readonly format: Format;
  readonly direction: Direction;
  readonly length: number;
  /** Million packets a second, medians. */
  readonly mpps: Record<Name, number>;
  /** Our back-end's processor time a packet in nanoseconds, median. */
  readonly cpu: number;
  /** Ours to theirs, round by round. */
  readonly ratio: { readonly median: number; readonly min: number; readonly max: number };
  readonly target: number;
}

export async function benchNet(args: readonly string[]): Promise<void> {
  const { values } = readCommandLine({
    args: [...args],
    options: {
      json: { type: 'boolean' },
      quick: { type: 'boolean', default: false },
      direction: { type: 'string', multiple: true },
      format: { type: 'string', multiple: true },
      length: { type: 'string', multiple: true },
    },
  });
  const formats = someOf('format', values.format, FORMATS);
  const directions = someOf('direction', values.direction, DIRECTIONS);
  const names = LENGTHS.map(({ length }) => String(length));
  const lengths = someOf('length', values.length, names);
  if (testpmdPath === null) throw new Error('dpdk-testpmd is not installed (Debian: dpdk-dev)');
  if (availableParallelism() < CORES) throw new Error(`${CORES} processors are needed`);
  const [rounds, seconds] = values.quick ? [3, 0.4] : [9, 1];
  const rows: Row[] = [];
  for (const format of formats) {
    for (const direction of directions) {
      for (const { length, target } of LENGTHS.filter((each) => lengths.includes(String(each.length)))) {
        rows.push(await measure(format, direction, length, target, rounds, seconds));
      }
    }
  }
  if (values.json === true) {
    console.log(
      JSON.stringify({ node: process.versions.node, arch: process.arch, rounds, seconds, rows }, null, 2),
    );
  } else {
    print(rows, rounds, seconds);
  }
}

async function measure(
  format: Format,
  direction: Direction,
  length: number,
  target: number,
  rounds: number,
  seconds: number,
): Promise<Row> {
  using folder = new TemporaryFolder();
  await using ours = await Contender.start('ours', format, direction, length, folder.file('ours'));
  await using dpdk = await Contender.start('dpdk', format, direction, length, folder.file('dpdk'));
  const samples: Record<Name, Sample[]> = { ours: [], dpdk: [] };
  await ours.measure(seconds);
  await dpdk.measure(seconds / 4);
  for (let round = 0; round < rounds; round++) {
    const order = round % 2 === 0 ? [ours, dpdk] : [dpdk, ours];
    for (const each of order) samples[each.name].push(await each.measure(seconds));
  }
  const ratios = samples.ours.map(({ mpps }, i) => mpps / samples.dpdk[i]!.mpps);
  return {
    format,
    direction,
    length,
    mpps: {
      ours: median(samples.ours.map(({ mpps }) => mpps)),
      dpdk: median(samples.dpdk.map(({ mpps }) => mpps)),
    },
    cpu: median(samples.ours.map(({ cpu }) => cpu)),
    ratio: { median: median(ratios), min: Math.min(...ratios), max: Math.max(...ratios) },
    target,
  };
}

function median(values: readonly number[]): number {
  return [...values].sort((a, b) => a - b)[values.length >> 1]!;
}

function print(rows: readonly Row[], rounds: number, seconds: number): void {
  console.log(
    `Packets between testpmd (net_virtio_user) and a back-end on one processor each; ${rounds} rounds of ` +
      `${seconds} s in alternation; Node ${process.versions.node}\n` +
      'dpdk: testpmd (net_vhost); ratio: ours to dpdk, median (smallest–largest); cpu: our process, ns a packet.\n' +
      'guest→host: ours looks at each header and drops the packet (sink); net_vhost copies it first (rxonly).\n',
  );
  const head = ['ring', 'direction', 'bytes', 'ours Mpps', 'dpdk Mpps', 'ratio', 'cpu', 'target'];
  const names: Record<Direction, string> = { send: 'guest→host', receive: 'host→guest', loop: 'loop' };
  const cells = rows.map(({ format, direction, length, mpps, ratio, cpu, target }) => [
    format,
    names[direction],
    String(length),
    mpps.ours.toFixed(2),
    mpps.dpdk.toFixed(2),
    `${ratio.median.toFixed(2)} (${ratio.min.toFixed(2)}–${ratio.max.toFixed(2)})`,
    cpu.toFixed(0),
    `${ratio.median >= target ? 'reached' : 'MISSED'} ${target}`,
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i]!.length)));
  for (const line of [head, ...cells]) {
    console.log(
      line.map((cell, i) => (i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
    );
  }
}
