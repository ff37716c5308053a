import { readFileSync, readdirSync } from 'node:fs';
import { PlatformError } from '../../runtime/errors.js';
import { createLinuxPlatform } from '../../runtime/platform/linux.js';
import type { SocketStream } from '../../runtime/platform/platform.js';

export const platform = createLinuxPlatform();

/** The errno of the PlatformError that a call throws, its code when it has none, undefined when it does not throw. */
export function errno(run: () => unknown): string | undefined {
  try {
    run();
  } catch (error) {
    if (error instanceof PlatformError) return error.errno ?? error.code;
    throw error;
  }
  return undefined;
}

export async function rejection(promise: Promise<unknown>): Promise<unknown> {
  try {
    await promise;
  } catch (error) {
    return error;
  }
  return undefined;
}

export const bytes = (...values: number[]): Uint8Array => Uint8Array.from(values);

/** A connected pair of streams. */
export function streams(): [SocketStream, SocketStream] {
  const [a, b] = platform.socketPair();
  return [platform.adoptSocket(a) as SocketStream, platform.adoptSocket(b) as SocketStream];
}

export function receive(stream: SocketStream, size = 64): { count: number; data: number[]; fds: number[] } {
  const into = new Uint8Array(size);
  const fds: number[] = [];
  const count = stream.receive(into, fds);
  return { count, data: [...into.subarray(0, Math.max(count, 0))], fds };
}

/** Resolves when a callback-taking function calls back. */
export const once = <T>(start: (callback: (value: T) => void) => void): Promise<T> => new Promise(start);

export const turn = (): Promise<void> => new Promise((resolve) => setImmediate(resolve));

/** Runs the loop until the condition holds; a condition that never does is caught by the limit of the test run. */
export async function until(condition: () => boolean): Promise<void> {
  while (!condition()) await turn();
}

/** Open fds of this process, without the one that counts them. */
export const openFds = (): number => readdirSync('/proc/self/fd').length - 1;

/** Mappings of this process whose line names `name`. */
export const mappingsOf = (name: string): number =>
  readFileSync('/proc/self/maps', 'utf8')
    .split('\n')
    .filter((line) => line.includes(name)).length;

/** Mapped memory; the file is closed at once, as the session does. */
export function mapped(size: number, name = 'test') {
  const fd = platform.createSharedMemory(name, BigInt(size));
  const mapping = platform.map(fd, 0n, BigInt(size));
  platform.closeFd(fd);
  const u8 = platform.windows.u8[mapping.firstWindow]!;
  return { mapping, window: mapping.firstWindow, u8 };
}
