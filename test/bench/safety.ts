/**
 * What it costs to lose nothing: chains in flight kept record of, and writes to guest memory logged, against neither, on the
 * rings alone and end to end on a disk. All are measured in alternation; each round gives one ratio.
 */
import { readCommandLine } from '../support/command-line.js';
import { measureDisks } from './safety/disk.js';
import { measureRings } from './safety/ring.js';
import { type Row, type Spread, VARIANTS } from './safety/row.js';

export async function benchSafety(args: readonly string[]): Promise<void> {
  const { values } = readCommandLine({
    args: [...args],
    options: {
      json: { type: 'boolean' },
      quick: { type: 'boolean', default: false },
      ring: { type: 'boolean', default: false },
      disk: { type: 'boolean', default: false },
    },
  });
  const { quick } = values;
  const all = values.ring === values.disk;
  const rows: Row[] = [];
  if (all || values.ring) rows.push(...measureRings(quick ? 15 : 61));
  if (all || values.disk) rows.push(...(await measureDisks(quick ? 3 : 11, quick ? 0.06 : 0.2)));
  if (values.json === true) {
    console.log(JSON.stringify({ node: process.versions.node, arch: process.arch, rows }, null, 2));
  } else {
    print(rows);
  }
}

function print(rows: readonly Row[]): void {
  console.log(
    `Node ${process.versions.node}, ${process.arch}: ns a chain or a request without either, and how many times that with ` +
      'tracking, with the log, with both; median (quartiles on rings, smallest–largest on disks)\n',
  );
  const head = ['what', 'format', 'ns', ...VARIANTS.flatMap((name) => [name, '+ns'])];
  const cells = rows.map((row) => [
    row.what,
    row.format,
    row.plain.toFixed(1),
    ...VARIANTS.flatMap((name) => [
      formatSpread(row.ratio[name]),
      ((row.ratio[name].median - 1) * row.plain).toFixed(1),
    ]),
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...cells.map((row) => row[i]!.length)));
  for (const line of [head, ...cells]) {
    console.log(
      line.map((cell, i) => (i < 2 ? cell.padEnd(widths[i]!) : cell.padStart(widths[i]!))).join('  '),
    );
  }
}

function formatSpread({ median, low, high }: Spread): string {
  return `${median.toFixed(2)} (${low.toFixed(2)}–${high.toFixed(2)})`;
}
