import { DIRTY_PAGE, DirtyLog } from '../../../runtime/memory/dirty-log.js';
import { inflightStride } from '../../../runtime/virtqueue/inflight/region.js';
import type { TestGuest } from '../../support/test-guest.js';
import {
  type Contender,
  createGuest,
  createTypeScriptContender,
  type Format,
  MEMORY_END,
  RING_SIZE,
  type Safety,
  type Shape,
} from '../ring/contender.js';
import { quantile, ratios, type Row, type Variant, VARIANTS } from './row.js';

const FORMATS: readonly Format[] = ['split', 'packed'];
const SHAPES: readonly Shape[] = ['1 descriptor', '3 descriptors', 'indirect 3'];
const BATCHES = [1, 32] as const;
const CHAINS_IN_SAMPLE = 20_000;
const WARM_UP_SAMPLES = 6;

/** Drain and push on the device's side, on rings in this process. */
export function measureRings(samples: number): Row[] {
  const guest = createGuest();
  let base = 0x1000;
  const nextBase = (): number => (base += 0x8000) - 0x8000;
  const all = FORMATS.flatMap((format) =>
    SHAPES.map((shape) => {
      const create = (safety: Safety): Contender =>
        createTypeScriptContender(guest, format, shape, nextBase(), safety);
      return {
        format,
        shape,
        plain: create({}),
        tracked: create({ inflight: makeInflight(guest, format) }),
        logged: create({ log: makeLog(guest) }),
        both: create({ inflight: makeInflight(guest, format), log: makeLog(guest) }),
      };
    }),
  );
  const names = ['plain', ...VARIANTS] as const;
  for (let i = 0; i < WARM_UP_SAMPLES; i++) {
    for (const each of all) for (const name of names) for (const batch of BATCHES) sample(each[name], batch);
  }
  return all.flatMap((each) =>
    BATCHES.map((batch) => {
      const times = { plain: [], tracked: [], logged: [], both: [] } as Record<'plain' | Variant, number[]>;
      for (let i = 0; i < samples; i++) {
        for (const name of names) times[name].push(sample(each[name], batch));
      }
      const ratio = Object.fromEntries(
        VARIANTS.map((name) => [name, ratios(times[name], times.plain, 0.25)]),
      ) as Row['ratio'];
      const what = `${each.shape}, batch ${batch}`;
      return { what, format: each.format, plain: quantile(times.plain, 0.5), ratio };
    }),
  );
}

/** Nanoseconds a chain. */
function sample(contender: Contender, batch: number): number {
  const laps = Math.ceil(CHAINS_IN_SAMPLE / contender.chainsInLap);
  return contender.run(laps, batch) / (laps * contender.chainsInLap);
}

function makeInflight({ platform }: TestGuest, format: Format): NonNullable<Safety['inflight']> {
  const bytes = BigInt(inflightStride(format, RING_SIZE));
  const fd = platform.createSharedMemory('inflight', bytes);
  const mapping = platform.map(fd, 0n, bytes);
  return { window: mapping.firstWindow, offset: 0, capacity: RING_SIZE, mapping };
}

function makeLog({ platform }: TestGuest): DirtyLog {
  const bytes = BigInt(Math.ceil(MEMORY_END / DIRTY_PAGE / 8));
  return DirtyLog.map(platform, platform.createSharedMemory('log', bytes), 0n, bytes);
}
