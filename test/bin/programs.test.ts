import {
  existsSync,
  linkSync,
  mkdtempSync,
  readFileSync,
  rmSync,
  truncateSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { createConnection, createServer, type Socket } from 'node:net';
import { once } from 'node:events';
import { execFileSync, spawn, type ChildProcess, type StdioOptions } from 'node:child_process';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { repositoryRoot } from '../support/repository.js';

const folder = mkdtempSync(join(tmpdir(), 'vhu-'));
const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
  rmSync(folder, { recursive: true, force: true });
});

type Name = 'vhost-user-blk' | 'vhost-user-net' | 'vhost-user-rng';

/** A program as a child process. */
class Child {
  readonly process: ChildProcess;
  readonly ended: Promise<{ status: number | null; signal: string | null }>;
  stdout = '';
  stderr = '';

  constructor(
    name: Name | 'stalled-program',
    args: readonly string[],
    stdio: StdioOptions = ['ignore', 'pipe', 'pipe'],
    { before = [], env = {} }: { before?: readonly string[]; env?: NodeJS.ProcessEnv } = {},
  ) {
    const relative = name === 'stalled-program' ? './' : '../../runtime/bin/';
    const path = fileURLToPath(new URL(`${relative}${name}.js`, import.meta.url));
    this.process = spawn(process.execPath, [...before, path, ...args], {
      stdio,
      cwd: folder,
      env: { ...process.env, ...env },
    });
    running.add(this.process);
    this.process.stdout?.on('data', (chunk: Buffer) => (this.stdout += chunk.toString()));
    this.process.stderr?.on('data', (chunk: Buffer) => (this.stderr += chunk.toString()));
    this.ended = new Promise((resolve) => {
      this.process.on('close', (status, signal) => {
        running.delete(this.process);
        resolve({ status, signal });
      });
    });
  }

  /** Waits for a line of the log; fails when the program ends without it. */
  async logs(pattern: RegExp): Promise<void> {
    let ended = false;
    void this.ended.then(() => (ended = true));
    while (!pattern.test(this.stderr)) {
      if (ended) throw new Error(`ended without ${pattern}: ${this.stderr}`);
      await new Promise((resolve) => setTimeout(resolve, 5));
    }
  }

  async stop(signal: NodeJS.Signals = 'SIGTERM'): Promise<void> {
    this.process.kill(signal);
    assert.equal(await this.ended, { status: 0, signal: null }, this.stderr);
  }
}

let count = 0;
const fresh = (name: string): string => join(folder, `${name}-${count++}`);
const image = (size: number): string => {
  const path = fresh('image');
  writeFileSync(path, '');
  truncateSync(path, size);
  return path;
};
const fifo = (): string => {
  const path = fresh('fifo');
  execFileSync('mkfifo', [path]);
  return path;
};
const run = async (
  name: Name,
  args: readonly string[],
): Promise<{ status: number | null; stdout: string; stderr: string }> => {
  const child = new Child(name, args);
  const { status } = await child.ended;
  return { status, stdout: child.stdout, stderr: child.stderr };
};

/** A front-end's first message and the answer: the device's features. */
async function getFeatures(socket: Socket): Promise<bigint> {
  const request = Buffer.alloc(12);
  request.writeUInt32LE(1, 0);
  request.writeUInt32LE(1, 4);
  socket.write(request);
  let reply = Buffer.alloc(0);
  for await (const chunk of socket.iterator({ destroyOnReturn: false }) as AsyncIterable<Buffer>) {
    reply = Buffer.concat([reply, chunk]);
    if (reply.byteLength >= 20) break;
  }
  assert.is(reply.readUInt32LE(4), 5, 'a reply of version 1');
  return reply.readBigUInt64LE(12);
}

const connect = (path: string): Promise<Socket> =>
  new Promise((resolve, reject) => {
    const socket = createConnection(path, () => resolve(socket));
    socket.on('error', reject);
  });

const closed = (socket: Socket): Promise<unknown> => new Promise((resolve) => socket.on('close', resolve));

const BLK_MQ = 1n << 12n;
const BLK_RO = 1n << 5n;

const describing = suite('what programs say of themselves');

for (const [name, capabilities] of [
  ['vhost-user-blk', { type: 'block', features: ['read-only', 'blk-file'] }],
  ['vhost-user-net', { type: 'net', features: [] }],
  ['vhost-user-rng', { type: 'rng', features: [] }],
] as const) {
  describing(`${name} prints its capabilities and ignores everything else`, async () => {
    for (const args of [
      ['--print-capabilities'],
      ['--bogus', 'word', '--print-capabilities', '--blk-file=/none'],
    ]) {
      const { status, stdout, stderr } = await run(name, args);
      assert.is(status, 0);
      assert.equal(JSON.parse(stdout), capabilities);
      assert.is(stderr, '');
    }
  });

  describing(`${name} helps and tells its version`, async () => {
    const help = await run(name, ['--help']);
    assert.is(help.status, 0);
    for (const option of ['--socket-path=PATH', '--fd=FDNUM', '--print-capabilities', '--log-level']) {
      assert.ok(help.stdout.includes(option), option);
    }
    const { version } = JSON.parse(readFileSync(join(repositoryRoot(), 'package.json'), 'utf8'));
    const told = await run(name, ['--version']);
    assert.equal([told.status, told.stdout], [0, `${name} ${version}\n`]);
  });
}

describing.run();

const refusing = suite('arguments that cannot be followed');
const disk = ['--memory=1M'];
const socket = (): string => `--socket-path=${fresh('socket')}`;

const refused: [string, Name, () => string[], number, RegExp][] = [
  ['no place', 'vhost-user-rng', () => [], 2, /--socket-path or --fd/],
  ['two places', 'vhost-user-rng', () => [socket(), '--fd=3'], 2, /exclude each other/],
  ['an empty path', 'vhost-user-rng', () => ['--socket-path='], 2, /empty/],
  ['an fd that is no number', 'vhost-user-rng', () => ['--fd=x'], 2, /--fd: "x"/],
  ['an fd to connect', 'vhost-user-rng', () => ['--fd=3', '--connect'], 2, /--connect needs --socket-path/],
  ['an unknown option', 'vhost-user-rng', () => [socket(), '--blk-file=x'], 2, /'--blk-file'/],
  ['an unknown level', 'vhost-user-rng', () => [socket(), '--log-level=loud'], 2, /"loud" is none of/],
  ['no disk', 'vhost-user-blk', () => [socket()], 2, /--blk-file or --memory/],
  ['two disks', 'vhost-user-blk', () => [socket(), ...disk, '--blk-file=x'], 2, /exclude each other/],
  ['no queue', 'vhost-user-blk', () => [socket(), ...disk, '--num-queues=0'], 2, /--num-queues: "0"/],
  ['a long serial', 'vhost-user-blk', () => [socket(), ...disk, `--serial=${'x'.repeat(21)}`], 2, /--serial/],
  ['a size without end', 'vhost-user-blk', () => [socket(), '--memory=9999999T'], 2, /--memory/],
  ['an fd that is not open', 'vhost-user-rng', () => ['--fd=999'], 1, /fd 999.*EBADF/],
  ['an fd that is no socket', 'vhost-user-rng', () => ['--fd=0'], 1, /fd 0.*ENOTSOCK/],
  ['a folder that is not there', 'vhost-user-rng', () => ['--socket-path=/none/x'], 1, /ENOENT/],
  ['an image that is not there', 'vhost-user-blk', () => [socket(), '--blk-file=none'], 1, /none.*ENOENT/],
  ['a path that is too long', 'vhost-user-rng', () => [`${socket()}${'x'.repeat(99)}`], 1, /107 bytes/],
  ['an image without a name', 'vhost-user-blk', () => [socket(), '--blk-file='], 2, /--blk-file: the path/],
  ['an option without its value', 'vhost-user-blk', () => ['--fd', ...disk], 2, /--fd needs a value/],
  ['a folder as image', 'vhost-user-blk', () => [socket(), `--blk-file=${folder}`], 1, /cannot open/],
  ['C27: a device that is no disk', 'vhost-user-blk', () => [socket(), '--blk-file=/dev/zero'], 1, /ENOTBLK/],
  [
    'C27: a FIFO, which is not waited for',
    'vhost-user-blk',
    () => [socket(), '--read-only', `--blk-file=${fifo()}`],
    1,
    /ENOTBLK/,
  ],
  ['an empty image', 'vhost-user-blk', () => [socket(), `--blk-file=${image(0)}`], 1, /0 bytes/],
];
for (const [name, program, args, status, message] of refused) {
  refusing(`${name}: status ${status} and one line`, async () => {
    const outcome = await run(program, args());
    assert.is(outcome.status, status, outcome.stderr);
    assert.match(outcome.stderr, message);
    assert.match(outcome.stderr, new RegExp(`^${program}: [^\\n]+\\n$`));
    assert.is(outcome.stdout, '');
  });
}

refusing('a socket that another one serves: status 1, and the other one goes on', async () => {
  const path = fresh('socket');
  const first = new Child('vhost-user-rng', [`--socket-path=${path}`]);
  await first.logs(/message=serving/);
  const { status, stderr } = await run('vhost-user-rng', [`--socket-path=${path}`]);
  assert.is(status, 1);
  assert.match(stderr, /EADDRINUSE/);
  (await connect(path)).destroy();
  await first.stop();
});

refusing('where one of several cards cannot be served, the others leave no socket behind', async () => {
  const path = fresh('socket');
  const args = [`--socket-path=${path}`, '--socket-path=/none/socket'];
  const { status, stderr } = await run('vhost-user-net', args);
  assert.equal([status, existsSync(path)], [1, false], stderr);
});

refusing('a path that is no socket is not overwritten', async () => {
  const path = image(512);
  const { status } = await run('vhost-user-rng', [`--socket-path=${path}`]);
  assert.is(status, 1);
  assert.is(readFileSync(path).byteLength, 512);
});

refusing.run();

const serving = suite('serving');

serving(
  'listens, answers one front-end after the other, and ends with SIGTERM, leaving no socket behind',
  async () => {
    const path = fresh('socket');
    const child = new Child('vhost-user-blk', [
      '--socket-path',
      path,
      '--blk-file',
      image(1 << 20),
      '--num-queues',
      '2',
    ]);
    await child.logs(/message=serving .*bytes=1048576 .*queues=2/);
    for (let i = 0; i < 3; i++) {
      const frontend = await connect(path);
      assert.is((await getFeatures(frontend)) & (BLK_MQ | BLK_RO), BLK_MQ);
      frontend.destroy();
    }
    await child.stop();
    assert.not(existsSync(path));
    assert.is(child.stdout, '');
  },
);

serving('says what is odd about an image, and serves it', async () => {
  const file = image(1000);
  const serve = (...args: string[]) =>
    new Child('vhost-user-blk', [`--socket-path=${fresh('socket')}`, `--blk-file=${file}`, ...args]);
  const first = serve();
  await first.logs(/level=warn message="the last 488 bytes are less than a sector/);
  const second = serve();
  await second.logs(/level=warn message="the image is open for writing elsewhere/);
  const reader = serve('--read-only', '--log-level=debug');
  await reader.logs(/level=warn message="the last 488 bytes/);
  for (const child of [first, second, reader]) await child.stop();
  for (const { stderr } of [first, reader]) assert.not.match(stderr, /open for writing/);
});

serving('takes the size of the image again with SIGHUP, and goes on when it cannot be', async () => {
  const path = fresh('socket');
  const file = image(1 << 20);
  const child = new Child('vhost-user-blk', [`--socket-path=${path}`, `--blk-file=${file}`]);
  await child.logs(/message=serving/);
  const frontend = await connect(path);
  await getFeatures(frontend);
  truncateSync(file, 3 << 20);
  child.process.kill('SIGHUP');
  await child.logs(/message="the capacity changed" sectors=6144/);
  truncateSync(file, 0);
  child.process.kill('SIGHUP');
  await child.logs(/level=error .*0 bytes/);
  await getFeatures(frontend);
  frontend.destroy();
  await child.stop();
});

serving('ends with SIGINT while a front-end is connected, which sees it go', async () => {
  const path = fresh('socket');
  const child = new Child('vhost-user-blk', [`--socket-path=${path}`, ...disk, '--read-only']);
  await child.logs(/message=serving/);
  const frontend = await connect(path);
  assert.is((await getFeatures(frontend)) & (BLK_MQ | BLK_RO), BLK_RO);
  const gone = closed(frontend);
  frontend.resume();
  await child.stop('SIGINT');
  await gone;
});

for (const name of ['vhost-user-blk', 'vhost-user-net', 'vhost-user-rng'] as const) {
  for (const signal of ['SIGTERM', 'SIGINT'] as const) {
    serving(`${name} ends in good order with a ${signal} that comes while it is being loaded`, async () => {
      const path = fresh('socket');
      const hooks = fileURLToPath(new URL('./signal-while-loading.js', import.meta.url));
      const args = [`--socket-path=${path}`, ...(name === 'vhost-user-blk' ? disk : [])];
      const child = new Child(name, args, undefined, {
        before: ['--import', hooks],
        env: { SIGNAL_WHILE_LOADING: signal },
      });
      assert.equal(await child.ended, { status: 0, signal: null }, child.stderr);
      assert.not(existsSync(path));
    });
  }
}

serving('a medium that is stalled does not keep it from ending', async () => {
  const child = new Child('stalled-program', [`--socket-path=${fresh('socket')}`]);
  await child.logs(/message=serving/);
  await child.stop();
  assert.match(child.stderr, /requests under way are left to the kernel/);
});

serving('asked twice, ends at once', async () => {
  const child = new Child('stalled-program', [`--socket-path=${fresh('socket')}`]);
  await child.logs(/message=serving/);
  child.process.kill('SIGTERM');
  await child.logs(/message=stopping/);
  await child.stop('SIGINT');
  assert.not.match(child.stderr, /left to the kernel/);
});

serving('replaces a socket that was left behind', async () => {
  const path = fresh('socket');
  const first = new Child('vhost-user-rng', [`--socket-path=${path}`]);
  await first.logs(/message=serving/);
  first.process.kill('SIGKILL');
  await first.ended;
  assert.ok(existsSync(path));
  const second = new Child('vhost-user-rng', [`--socket-path=${path}`]);
  await second.logs(/message=serving/);
  (await connect(path)).destroy();
  await second.stop();
});

serving('survives whoever read its log', async () => {
  const path = fresh('socket');
  const child = new Child('vhost-user-rng', [`--socket-path=${path}`, '--log-level=debug']);
  await child.logs(/message=serving/);
  child.process.stderr!.destroy();
  for (let i = 0; i < 2; i++) {
    const frontend = await connect(path);
    await getFeatures(frontend);
    frontend.destroy();
  }
  await child.stop();
});

serving('says nothing below its level', async () => {
  const path = fresh('socket');
  const child = new Child('vhost-user-rng', [`--socket-path=${path}`, '--log-level=error']);
  while (!existsSync(path)) await new Promise((resolve) => setTimeout(resolve, 5));
  await child.stop();
  assert.is(child.stderr, '');
});

serving('--fd takes a listening socket', async () => {
  const server = createServer();
  const made = fresh('socket');
  await new Promise<void>((resolve) => server.listen(made, resolve));
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  const child = new Child('vhost-user-rng', ['--fd=3'], ['ignore', 'pipe', 'pipe', fd]);
  // The socket lives on in the child alone, under a name that closing it here does not remove.
  const path = fresh('socket');
  linkSync(made, path);
  server.close();
  await child.logs(/message=serving/);
  for (let i = 0; i < 2; i++) {
    const frontend = await connect(path);
    await getFeatures(frontend);
    frontend.destroy();
  }
  await child.stop();
  assert.ok(existsSync(path), 'it is not ours to remove');
});

serving('--fd takes a connected socket and ends with it', async () => {
  const child = new Child('vhost-user-rng', ['--fd=3'], ['ignore', 'pipe', 'pipe', 'pipe']);
  const frontend = child.process.stdio[3] as Socket;
  await getFeatures(frontend);
  frontend.destroy();
  assert.equal(await child.ended, { status: 0, signal: null });
});

serving(
  '--connect waits for a front-end for as long as it takes, and SIGTERM or SIGINT end the wait at once',
  async () => {
    const path = fresh('socket');
    const child = new Child('vhost-user-rng', [`--socket-path=${path}`, '--connect']);
    await child.logs(/serving/);
    // First nothing is there, then a socket at which nobody listens any more, then a front-end.
    await new Promise((resolve) => setTimeout(resolve, 100));
    const dead = createServer();
    await new Promise<void>((resolve) => dead.listen(`${path}-made`, resolve));
    linkSync(`${path}-made`, path);
    dead.close();
    await new Promise((resolve) => setTimeout(resolve, 100));
    unlinkSync(path);
    const server = createServer();
    const connection = once(server, 'connection');
    await new Promise<void>((resolve) => server.listen(path, resolve));
    const [frontend] = (await connection) as [Socket];
    assert.ok((await getFeatures(frontend)) > 0n);
    server.close();
    frontend.destroy();
    await child.logs(/the session ended/);
    await child.stop();
    const other = new Child('vhost-user-rng', [`--socket-path=${fresh('socket')}`, '--connect']);
    await other.logs(/serving/);
    await other.stop('SIGINT');
  },
);

serving('--connect comes to a front-end that listens, and comes again', async () => {
  const path = fresh('socket');
  const frontends: Socket[] = [];
  const server = createServer((frontend) => frontends.push(frontend));
  await new Promise<void>((resolve) => server.listen(path, resolve));
  const child = new Child('vhost-user-rng', [`--socket-path=${path}`, '--connect']);
  for (let i = 0; i < 2; i++) {
    while (frontends.length <= i) await new Promise((resolve) => setTimeout(resolve, 5));
    await getFeatures(frontends[i]!);
    frontends[i]!.destroy();
  }
  await child.stop();
  for (const frontend of frontends) frontend.destroy();
  server.close();
});

serving.run();
