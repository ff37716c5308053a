import { daemonPath, startListening } from '../../support/guest/daemon.js';
import type { RunningProgram } from '../../support/guest/processes.js';
import { processCpuSeconds } from '../process-time.js';
import { type PortCounts, Testpmd } from '../../support/testpmd.js';

/** `send`: guest to host. `receive`: host to guest. `loop`: there and back. */
export const DIRECTIONS = ['send', 'receive', 'loop'] as const;
export type Direction = (typeof DIRECTIONS)[number];
export type Format = 'split' | 'packed';
export const NAMES = ['ours', 'dpdk'] as const;
export type Name = (typeof NAMES)[number];

/** Commands are taken here; packets are moved on a processor of their own on each side. */
const COMMAND_CORE = 0;
const FRONTEND_CORE = 1;
const BACKEND_CORE = 2;
/** Bursts of 32 that go round in a loop: half a ring, so that nobody has to drop one. */
const LOOP_BURSTS = 4;

const TRIES = 5;

const FRONTEND_MODE: Record<Direction, string> = { send: 'txonly', receive: 'rxonly', loop: 'io' };
const BACKEND_MODE: Record<Direction, string> = { send: 'rxonly', receive: 'txonly', loop: 'macswap' };

/** What came of one measurement. */
export interface Sample {
  /** Million packets a second. */
  readonly mpps: number;
  /** The back-end's processor time a packet, in nanoseconds; of one that spins always, what passed. */
  readonly cpu: number;
}

/** A back-end with a front-end on it, at work only while it is measured. */
export class Contender implements AsyncDisposable {
  readonly name: Name;
  readonly #direction: Direction;
  readonly #frontend: Testpmd;
  readonly #backend: RunningProgram | Testpmd;

  private constructor(
    name: Name,
    direction: Direction,
    frontend: Testpmd,
    backend: RunningProgram | Testpmd,
  ) {
    this.name = name;
    this.#direction = direction;
    this.#frontend = frontend;
    this.#backend = backend;
  }

  static async start(
    name: Name,
    format: Format,
    direction: Direction,
    length: number,
    socket: string,
  ): Promise<Contender> {
    const backend =
      name === 'ours'
        ? await startOurs(direction, length, socket)
        : await startDpdk(direction, length, socket);
    try {
      const device = { queues: 1, packed_vq: format === 'packed' ? 1 : 0, in_order: 0, mrg_rxbuf: 1 };
      const frontend = await Testpmd.start(socket, device, [], [COMMAND_CORE, FRONTEND_CORE]);
      await frontend.run(`set fwd ${FRONTEND_MODE[direction]}`, `set txpkts ${length}`);
      if (!(backend instanceof Testpmd)) backend.child.kill('SIGSTOP');
      return new Contender(name, direction, frontend, backend);
    } catch (error) {
      await backend[Symbol.asyncDispose]();
      throw error;
    }
  }

  /**
   * Moves packets for `seconds`, after a while to get going. A loop whose packets were all dropped, because one side of it was
   * kept from its processor, is begun again.
   */
  async measure(seconds: number): Promise<Sample> {
    for (let tries = 0; tries < TRIES; tries++) {
      const sample = await this.#try(seconds);
      if (sample !== null) return sample;
    }
    throw new Error(`${this.name}: no packets moved\n${this.#frontend.program.output}`);
  }

  async #try(seconds: number): Promise<Sample | null> {
    const backend = this.#backend instanceof Testpmd ? this.#backend : null;
    const { child } = backend?.program ?? (this.#backend as RunningProgram);
    // Ours spins always: it must not do so beside the other one.
    if (backend === null) child.kill('SIGCONT');
    else await backend.run('start');
    await this.#frontend.run(this.#direction === 'loop' ? `start tx_first ${LOOP_BURSTS}` : 'start');
    await sleep(seconds / 4);
    const cpuBefore = processCpuSeconds(child.pid!);
    const before = await this.#counts();
    await sleep(seconds);
    const after = await this.#counts();
    const cpu = processCpuSeconds(child.pid!) - cpuBefore;
    await this.#frontend.run('stop');
    if (backend === null) child.kill('SIGSTOP');
    else await backend.run('stop');
    const packets = after.packets - before.packets;
    if (packets === 0) return null;
    return { mpps: packets / (after.time - before.time) / 1000, cpu: (cpu / packets) * 1e9 };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#frontend[Symbol.asyncDispose]();
    await this.#backend[Symbol.asyncDispose]();
  }

  async #counts(): Promise<{ packets: number; time: number }> {
    const before = performance.now();
    const counts: PortCounts = await this.#frontend.counts();
    const packets = this.#direction === 'send' ? counts.sent : counts.received;
    return { packets, time: (before + performance.now()) / 2 };
  }
}

function startOurs(direction: Direction, length: number, socket: string): Promise<RunningProgram> {
  const port = { send: 'sink', receive: `source:${length}`, loop: 'echo' }[direction];
  return startListening('vhost-user-net', socket, 'taskset', [
    ...['-c', String(BACKEND_CORE), process.execPath, daemonPath('vhost-user-net')],
    ...[`--socket-path=${socket}`, `--port=${port}`, '--poll'],
  ]);
}

async function startDpdk(direction: Direction, length: number, socket: string): Promise<Testpmd> {
  const processors = [COMMAND_CORE, BACKEND_CORE];
  const backend = await Testpmd.startBackend(socket, { queues: 1 }, [], processors);
  await backend.run(`set fwd ${BACKEND_MODE[direction]}`, `set txpkts ${length}`);
  return backend;
}

function sleep(seconds: number): Promise<void> {
  return new Promise((resolve) => setTimeout(resolve, seconds * 1000));
}
