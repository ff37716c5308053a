import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { repositoryRoot } from '../../support/repository.js';

/** The C++ loops of one side of a ring: ring-loop.cc is the device's, driver-loop.cc the driver's. */
export interface Yardstick {
  /** Binds a queue; the sources say to which arrays. Returns its number. */
  create(
    numbers: Int32Array,
    ...arrays: (Int32Array | Uint16Array | Uint32Array | Uint8Array | Float64Array)[]
  ): number;
  /** Nanoseconds spent in the loops over so many laps, -1 when a chain was refused. */
  run(queue: number, laps: number, batch: number): number;
}

/** Compiles the loops with -O2 into a folder of their own and loads them into this process. */
export function buildYardstick(source: 'ring-loop' | 'driver-loop'): Yardstick {
  const root = repositoryRoot();
  const folder = mkdtempSync(join(tmpdir(), 'ring-bench-'));
  try {
    const addon = join(folder, `${source}.node`);
    execFileSync(
      process.env['CXX'] ?? 'g++',
      [
        ...['-O2', '-std=c++17', '-Wall', '-Wextra', '-shared', '-fPIC'],
        ...['-I', join(root, 'node_modules/node-api-headers/include')],
        ...[join(root, `test/bench/ring/${source}.cc`), '-o', addon],
      ],
      { stdio: ['ignore', 'inherit', 'inherit'] },
    );
    return createRequire(import.meta.url)(addon) as Yardstick;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
