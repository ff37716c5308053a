import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { eventually, RunningProgram } from './processes.js';

export type DaemonName = 'vhost-user-blk' | 'vhost-user-net' | 'vhost-user-rng';

/** The compiled program, as a user of the repository starts it. */
export function daemonPath(name: DaemonName): string {
  return fileURLToPath(new URL(`../../../runtime/bin/${name}.js`, import.meta.url));
}

/** Starts one of our daemons and waits until it listens. */
export function startDaemon(
  name: DaemonName,
  socket: string,
  args: readonly string[] = [],
): Promise<RunningProgram> {
  return startListening(name, socket, process.execPath, [
    daemonPath(name),
    `--socket-path=${socket}`,
    ...args,
  ]);
}

/** Starts one of our daemons with its dirty log switched off. */
export function startWithoutDirtyLog(
  name: DaemonName,
  socket: string,
  args: readonly string[] = [],
): Promise<RunningProgram> {
  const wrapper = fileURLToPath(new URL('without-dirty-log.js', import.meta.url));
  return startListening(name, socket, process.execPath, [
    wrapper,
    daemonPath(name),
    `--socket-path=${socket}`,
    ...args,
  ]);
}

/** Starts any program and waits until it listens on the socket. A trial connection would count as a front-end, so none is made. */
export async function startListening(
  name: string,
  socket: string,
  file: string,
  args: readonly string[],
  cwd?: string,
): Promise<RunningProgram> {
  const program = new RunningProgram(name, file, args, cwd);
  try {
    await eventually(
      () => {
        if (program.exit !== null) throw new Error(`${program.ending}${program.output}`);
        return listens(socket, program);
      },
      () => `${name} does not listen on ${socket}\n${program.output}`,
    );
  } catch (error) {
    await program[Symbol.asyncDispose]();
    throw error;
  }
  return program;
}

/** Num RefCount Protocol Flags Type St Inode Path; flag 0x10000 says that it accepts connections. */
function listens(path: string, program: RunningProgram): boolean {
  // The program's own view: it may be in a network namespace of its own.
  return readFileSync(`/proc/${program.child.pid}/net/unix`, 'utf8')
    .split('\n')
    .some((line) => line.endsWith(` ${path}`) && line.split(/\s+/)[3] === '00010000');
}
