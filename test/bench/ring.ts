/**
 * What one chain costs, drain and push on the device's side, add, publish and collect on the driver's, in the TypeScript
 * rings and in the yardstick's C++ loops with the same checks, in one process on the same guest memory. The two alternate, and each pair of samples gives one ratio: a machine that is
 * busy slows both. Only ratios have targets. Asking whether to call, with its full fence, is on neither side of them.
 */
import {
  type Contender,
  createGuest,
  createNativeContender,
  createTypeScriptContender,
  type Format,
  type Shape,
  SHAPES,
} from './ring/contender.js';
import { readCommandLine } from '../support/command-line.js';
import { createNativeDriver, createTypeScriptDriver } from './ring/driver-contender.js';
import { buildYardstick } from './ring/yardstick.js';

const BATCHES = [1, 32, 256] as const;
const FORMATS: readonly Format[] = ['split', 'packed'];
const SIDES = ['device', 'driver'] as const;
type Side = (typeof SIDES)[number];
/** Largest ratio at a batch of 32, on the device's side. */
const TARGETS: Partial<Record<Shape, number>> = {
  '1 descriptor': 2.3,
  '3 descriptors': 2.5,
  'indirect 3': 2.6,
};
const CHAINS_IN_SAMPLE = 20_000;
const WARM_UP_SAMPLES = 6;

interface Row {
  readonly side: Side;
  readonly format: Format;
  readonly shape: Shape;
  readonly batch: number;
  /** Nanoseconds a chain, medians. */
  readonly typescript: number;
  readonly native: number;
  /** Median of the pairs' ratios, and their quartiles. */
  readonly ratio: number;
  readonly low: number;
  readonly high: number;
  readonly target: number | null;
}

export function benchRing(args: readonly string[]): void {
  const { values } = readCommandLine({
    args: [...args],
    options: { json: { type: 'boolean' }, quick: { type: 'boolean' } },
  });
  const samples = values.quick === true ? 15 : 61;
  const rows = SIDES.flatMap((side) => measure(side, samples));
  if (values.json === true) {
    console.log(JSON.stringify({ node: process.versions.node, arch: process.arch, samples, rows }, null, 2));
  } else {
    print(rows);
  }
}

function measure(side: Side, samples: number): Row[] {
  const guest = createGuest();
  const yardstick = buildYardstick(side === 'device' ? 'ring-loop' : 'driver-loop');
  const [typescript, native] =
    side === 'device'
      ? [createTypeScriptContender, createNativeContender]
      : [createTypeScriptDriver, createNativeDriver];
  const clock = clockCost();
  let base = 0x1000;
  const nextBase = (): number => (base += 0x8000) - 0x8000;
  const pairs = FORMATS.flatMap((format) =>
    SHAPES.map((shape) => ({
      format,
      shape,
      typescript: typescript(guest, format, shape, nextBase()),
      native: native(guest, format, shape, nextBase(), yardstick),
    })),
  );
  // All shapes run before any is measured, so that every loop is compiled for all of them, as in a real device.
  for (let i = 0; i < WARM_UP_SAMPLES; i++) {
    for (const pair of pairs) for (const batch of BATCHES) sample(pair.typescript, batch, clock);
  }
  return pairs.flatMap(({ format, shape, typescript, native }) =>
    BATCHES.map((batch) => {
      const ours: number[] = [];
      const theirs: number[] = [];
      for (let i = 0; i < samples; i++) {
        ours.push(sample(typescript, batch, clock));
        theirs.push(sample(native, batch, 0));
      }
      const ratios = ours.map((value, i) => value / theirs[i]!);
      return {
        side,
        format,
        shape,
        batch,
        typescript: quantile(ours, 0.5),
        native: quantile(theirs, 0.5),
        ratio: quantile(ratios, 0.5),
        low: quantile(ratios, 0.25),
        high: quantile(ratios, 0.75),
        target: side === 'device' && batch === 32 ? (TARGETS[shape] ?? null) : null,
      };
    }),
  );
}

/** Nanoseconds a chain over one sample; `clock` is what reading the time costs in a lap. */
function sample(contender: Contender, batch: number, clock: number): number {
  const laps = Math.ceil(CHAINS_IN_SAMPLE / contender.chainsInLap);
  return (contender.run(laps, batch) - laps * clock) / (laps * contender.chainsInLap);
}

/** Nanoseconds between two readings of the clock with nothing between them. */
function clockCost(): number {
  const costs: number[] = [];
  for (let i = 0; i < 20_000; i++) {
    const start = performance.now();
    costs.push(performance.now() - start);
  }
  return quantile(costs, 0.5) * 1e6;
}

function quantile(values: readonly number[], q: number): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor((sorted.length - 1) * q)]!;
}

function print(rows: readonly Row[]): void {
  console.log(
    `Node ${process.versions.node}, ${process.arch}: ns per chain; device: drain and push, driver: add, publish and collect\n`,
  );
  const header = ['side', 'format', 'chain', 'batch', 'TypeScript', 'C++', 'ratio', 'quartiles', 'target'];
  const lines = rows.map((row) => [
    row.side,
    row.format,
    row.shape,
    String(row.batch),
    row.typescript.toFixed(1),
    row.native.toFixed(1),
    row.ratio.toFixed(2),
    `${row.low.toFixed(2)} - ${row.high.toFixed(2)}`,
    row.target === null ? '' : `${row.ratio <= row.target ? 'reached' : 'MISSED'} ${row.target}`,
  ]);
  const widths = header.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i]!.length)));
  for (const line of [header, ...lines]) {
    console.log(
      line.map((cell, i) => (i < 3 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
    );
  }
}
