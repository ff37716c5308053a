import { readFileSync, truncateSync, writeFileSync } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import { VirtioDriver } from '../../runtime/drivers/virtio-driver.js';
import { SUPPORTED_PROTOCOL_FEATURES } from '../../runtime/vhost-user/frontend/feature-filter.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';
import type { Platform } from '../../runtime/platform/platform.js';
import { VirtioFeature } from '../../generated/virtio/features.js';
import { PATIENCE, type RunningProgram, within } from '../support/guest/processes.js';
import { Random } from '../support/random.js';
import { type Backends, startProgram } from './backends.js';
import type { Combination } from './combinations.js';
import type { Death } from './dying-backing.js';
import { DISK_SECTORS, Load, LOAD_QUEUES } from './load.js';
import { type KillKind, KILL_KINDS, type KillPlan, planKill } from './plan.js';
import { SECTOR } from './sector-model.js';

export interface CrashOptions {
  readonly platform: Platform;
  readonly combination: Combination;
  readonly kills: number;
  readonly seed: number;
  /** In a file system that keeps what a killed process wrote, as all do; in memory it is quick. */
  readonly file: string;
  readonly socketPath: string;
  readonly backends: Backends;
  readonly mode?: CrashMode;
  /** Milliseconds in which everything is to come back once a back-end was killed. */
  readonly settleLimit?: number;
}

/**
 * - `tracked`: chains in flight are recorded and the next back-end goes on with the rings as they are. No request may be lost
 *   or come back twice.
 * - `reissued`: no record; each ring starts afresh, and the driver issues again what had not come back.
 * - `forgetful`: no record, and the rings go on as they are, as if there were one. It cannot go well: it is there to show that
 *   the test sees it.
 */
export type CrashMode = 'tracked' | 'reissued' | 'forgetful';

export interface CrashCounts {
  readonly kills: Record<KillKind, number>;
  /** Kills before the back-end had been told everything. */
  beforeReady: number;
  /** Requests that were under way at a kill, over all of them. */
  caught: number;
  requests: number;
}

/** However loaded the machine is. */
const SETTLE_LIMIT = PATIENCE;
/** A back-end that was to die by its own hand may have too little to do for it. */
const DEATH_LIMIT = 300;
/** Kills between two pauses in which everything must come back. */
const KILLS_A_PAUSE = 8;

/**
 * Writes and verifies over one form of the rings while the back-end is killed again and again. After each kill, while
 * nothing serves, the disk must hold what was acknowledged; in the pauses every request must have come back. Throws at the
 * first thing that is wrong.
 */
export async function crashRun(options: CrashOptions): Promise<CrashCounts> {
  const { platform, combination, socketPath, file, seed, mode = 'tracked' } = options;
  writeFileSync(file, '');
  truncateSync(file, DISK_SECTORS * SECTOR);
  const run = new CrashRun(options);
  let current: KillPlan | null = null;
  try {
    const first = await run.start(null);
    using driver = await VirtioDriver.start({
      platform,
      path: socketPath,
      retry: { attempts: Infinity, delayMilliseconds: 1 },
      reconnect: true,
      format: combination.format,
      indirect: combination.indirect,
      eventIdx: combination.eventIdx,
      queues: LOAD_QUEUES,
      queueSize: 64,
      memory: { size: 16 << 20 },
      ...(mode === 'tracked'
        ? {}
        : { protocol: SUPPORTED_PROTOCOL_FEATURES & ~ProtocolFeature.inflightShmfd }),
      signal: AbortSignal.timeout(SETTLE_LIMIT),
    });
    checkNegotiated(driver, combination);
    if (mode === 'forgetful') forget(driver);
    const load = new Load(driver, seed, combination.indirect);
    await run.pause(driver, load, first);
    while (run.killed < options.kills) {
      current = planKill(run.random);
      await run.kill(driver, load, await run.startFor(current), current);
      if (run.killed % KILLS_A_PAUSE !== 0 && run.killed < options.kills) continue;
      await run.pause(driver, load, await run.start(null));
    }
    // The last kill may have been that of a pause: what it caught still has to come back.
    if (run.unserved) await run.pause(driver, load, await run.start(null));
    await load.stop();
    run.counts.requests = load.completed;
    return run.counts;
  } catch (error) {
    throw new Error(
      `after ${run.killed} kills, ${JSON.stringify(current)}: ${(error as Error).message}\n${run.output}`,
      { cause: error },
    );
  } finally {
    await run[Symbol.asyncDispose]();
  }
}

class CrashRun implements AsyncDisposable {
  readonly random: Random;
  killed = 0;
  readonly counts: CrashCounts = {
    kills: Object.fromEntries(KILL_KINDS.map((kind) => [kind, 0])) as Record<KillKind, number>,
    beforeReady: 0,
    caught: 0,
    requests: 0,
  };
  readonly #options: CrashOptions;
  #backend: RunningProgram | null = null;

  constructor(options: CrashOptions) {
    this.#options = options;
    this.random = new Random(options.seed);
  }

  /** What the last back-end had to say. */
  get output(): string {
    return this.#backend?.output.replace('warm\n', '') ?? '';
  }

  /** The last back-end is gone. */
  get unserved(): boolean {
    return this.#backend?.exit !== null;
  }

  async start(death: Death | null): Promise<RunningProgram> {
    this.#backend = await this.#options.backends.start({ ...this.#assignment, death });
    return this.#backend;
  }

  async startFor(plan: KillPlan): Promise<RunningProgram> {
    if (plan.kind === 'program') return (this.#backend = startProgram({ ...this.#assignment, death: null }));
    return await this.start('death' in plan ? plan.death : null);
  }

  /** Kills the back-end as planned, waits until it is gone, and looks at what it left. */
  async kill(driver: VirtioDriver, load: Load, backend: RunningProgram, plan: KillPlan): Promise<void> {
    let ready = driver.frontend.connected;
    const heard = (): void => void (ready = true);
    driver.frontend.once('reconnected', heard);
    if ('death' in plan) await this.#or(load, Promise.race([backend.exited, delay(DEATH_LIMIT)]));
    else await this.#or(load, delay(plan.milliseconds));
    if (backend.exit === null) {
      // Not what is heard of the back-end's end, but what it was before.
      ready ||= driver.frontend.connected;
      backend.child.kill('SIGKILL');
    }
    const { signal, status } = await backend.exited;
    if (signal !== 'SIGKILL') throw new Error(`the back-end ended by itself with ${signal ?? status}`);
    driver.frontend.off('reconnected', heard);
    this.killed++;
    this.counts.kills[plan.kind]++;
    this.counts.caught += load.underWay;
    if (!ready) this.counts.beforeReady++;
    this.#look(load);
  }

  /** A back-end that lives on lets everything come back; then it is killed too. */
  async pause(driver: VirtioDriver, load: Load, backend: RunningProgram): Promise<void> {
    await this.#or(
      load,
      within(this.#settleLimit, load.settle(), () => {
        const queues = driver.queues.map((queue) => queue.driver.inFlight).join(', ');
        return `${load.underWay} requests never came back; in the rings: ${queues}`;
      }),
    );
    this.#look(load);
    const { mode = 'tracked' } = this.#options;
    const chains = driver.queues.reduce((sum, { driver: { counters } }) => sum + counters.chains, 0);
    if (mode !== 'reissued' && chains !== load.issued) {
      throw new Error(`${load.issued} requests were ${chains} chains`);
    }
    load.resume();
    if (this.killed >= this.#options.kills) return;
    await this.kill(driver, load, backend, { kind: 'later', milliseconds: 5 });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#backend?.[Symbol.asyncDispose]();
  }

  get #settleLimit(): number {
    return (this.killed > 0 ? this.#options.settleLimit : undefined) ?? SETTLE_LIMIT;
  }

  #look(load: Load): void {
    const bytes = readFileSync(this.#options.file);
    const damage = load.model.damage(new Uint32Array(bytes.buffer, bytes.byteOffset, bytes.byteLength >>> 2));
    if (damage !== null) throw new Error(damage);
  }

  #or<Value>(load: Load, promise: Promise<Value>): Promise<Value> {
    return Promise.race([promise, load.failed]);
  }

  get #assignment() {
    const { socketPath, file } = this.#options;
    return { socketPath, file, queues: LOAD_QUEUES, seed: this.random.below(0x7fffffff) };
  }
}

/** Has the rings go on where used ones end, without a record of what is in flight. */
function forget({ queues, frontend }: VirtioDriver): void {
  for (const { index } of queues) {
    const vring = frontend.vring(index)!;
    const { resume, ...setup } = vring.setup!;
    vring.prepare({ ...setup, restore: resume! });
  }
}

function checkNegotiated(driver: VirtioDriver, { format, indirect, eventIdx }: Combination): void {
  const { ringPacked, indirectDesc, eventIdx: eventIdxBit } = VirtioFeature;
  const expected =
    (format === 'packed' ? ringPacked : 0n) | (indirect ? indirectDesc : 0n) | (eventIdx ? eventIdxBit : 0n);
  const got = driver.features & (ringPacked | indirectDesc | eventIdxBit);
  if (got !== expected) throw new Error(`negotiated 0x${got.toString(16)}, not 0x${expected.toString(16)}`);
}
