import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, renameSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { createContext, runInContext } from 'node:vm';
import { build } from 'esbuild';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { startListening } from '../support/guest/daemon.js';
import { Guest } from '../support/guest/guest.js';
import { TemporaryFolder } from '../support/guest/processes.js';

const repository = fileURLToPath(new URL('../../../', import.meta.url));
const folder = new TemporaryFolder();
const project = folder.file('project');
const installed = join(project, 'node_modules/vhost-user');

/** Runs a program in the reader's project; its output, or an error with all it said. */
function run(file: string, ...args: string[]): string {
  const { status, stdout, stderr } = spawnSync(file, args, { cwd: project, encoding: 'utf8' });
  if (status !== 0) throw new Error(`${file} ${args.join(' ')}\nstatus ${status}\n${stdout}${stderr}`);
  return stdout;
}

function write(name: string, content: string | object): void {
  writeFileSync(join(project, name), typeof content === 'string' ? content : JSON.stringify(content));
}

const device = `
import { ChainDevice, DeviceId, serve, type DescriptorChain } from 'vhost-user';

/** Counts upwards; as random as a reader's first device is. */
class CountingDevice extends ChainDevice {
  readonly deviceId = DeviceId.entropy;
  #next = 0;

  handleChain(chain: DescriptorChain): void {
    for (const span of chain.writable.spans(4096)) {
      for (let i = 0; i < span.length; i++) span[i] = this.#next++ & 0xff;
    }
  }
}

using backend = serve(new CountingDevice(), { socketPath: process.argv[2]! });
await backend.finished;
`;

const codecs = `
import {
  decodeExactly, encodeToBytes, type FrontendRequests, frontendRequests, ProtocolFeature, VringState,
} from 'vhost-user/codecs';

const state: VringState = decodeExactly(VringState, Uint8Array.of(1, 0, 0, 0, 0, 1, 0, 0));
const row = frontendRequests.setVringNum;
const payload: FrontendRequests['setVringNum']['payload'] = state;
const bytes: number[] = [...encodeToBytes(VringState, payload)];
export const result: string = JSON.stringify([state, bytes, row.id, row.specName, Number(ProtocolFeature.replyAck)]);
`;

const everything = `
import * as main from 'vhost-user';
import * as codecs from 'vhost-user/codecs';
import { openFileBacking, RamBacking } from 'vhost-user/backings';
import { PlatformPacketMemory, Switch } from 'vhost-user/backings/ports';
import { BlockDevice } from 'vhost-user/devices/blk';
import { NetDevice } from 'vhost-user/devices/net';
import { EntropyDevice } from 'vhost-user/devices/entropy';
import * as testing from 'vhost-user/testing';
import type { VirtioDevice, BackendOptions, Platform } from 'vhost-user';

const device: VirtioDevice = new EntropyDevice();
const platform = testing.createFakePlatform();
export const others: VirtioDevice[] = [
  new BlockDevice(new RamBacking(platform, 512n)),
  new NetDevice(new Switch(new PlatformPacketMemory(platform)).addPort()),
];
export const open: (platform: Platform, path: string) => unknown = openFileBacking;
// @ts-expect-error: a device is no number, so the types really resolved.
const wrong: VirtioDevice = 4;
// @ts-expect-error: nor is anything here of type any.
main.serve(device, { socketPath: 4 });
export const use: [unknown, unknown, BackendOptions | null, Platform | null, unknown, unknown] =
  [main, codecs, null, null, BlockDevice, [testing, wrong]];
`;

/** What the examples of the pages take for given. */
const given = `
declare const bytes: Uint8Array;
declare const EntropyDevice: typeof import('vhost-user/devices/entropy').EntropyDevice;
`;
const pages = ['README.md', ...['blk', 'net', 'entropy'].map((id) => `runtime/devices/${id}/README.md`)];

/** The TypeScript examples of the installed pages, each a file of its own; how many there are. */
function writeExamples(): number {
  let count = 0;
  for (const page of pages) {
    const text = readFileSync(join(installed, page), 'utf8');
    for (const [, code] of text.matchAll(/^```ts\n(.*?)^```$/gms)) write(`example-${count++}.ts`, code!);
  }
  write('given.d.ts', given);
  return count;
}

test.before(() => {
  // What is packed is what \`npm test\` built just now; building again below running tests would change files under them.
  const packed = execFileSync(
    'npm',
    ['pack', '--ignore-scripts', '--json', '--pack-destination', folder.path],
    {
      cwd: repository,
      encoding: 'utf8',
    },
  );
  const [{ filename }] = JSON.parse(packed) as [{ filename: string }];
  mkdirSync(project);
  write('package.json', { name: 'reader', private: true, type: 'module' });
  const lock = JSON.parse(readFileSync(join(repository, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { version: string }>;
  };
  const version = (name: string): string => `${name}@${lock.packages[`node_modules/${name}`]!.version}`;
  // Versions of the lock file: they are in npm's cache, so no network is needed. The addon is built here, by \`install\`.
  run(
    'npm',
    ...['install', '--prefer-offline', '--no-audit', '--no-fund', join(folder.path, filename)],
    ...[version('typescript'), version('@types/node')],
  );
  for (const [name, source] of Object.entries({ device, codecs, everything })) {
    write(`${name}.ts`, source);
  }
  assert.ok(writeExamples() >= 7);
});

test.after(() => folder[Symbol.dispose]());

function compilerOptions(module: string, moduleResolution: string, noEmit: boolean): object {
  return {
    compilerOptions: {
      target: 'ES2022',
      lib: ['ES2023', 'ESNext.Disposable'],
      types: ['node'],
      strict: true,
      exactOptionalPropertyTypes: true,
      skipLibCheck: false,
      rootDir: '.',
      outDir: 'out',
      module,
      moduleResolution,
      noEmit,
    },
    include: ['*.ts'],
  };
}

test('the packed files are enough to build and nothing of ours that is not needed', () => {
  const files = run('find', 'node_modules/vhost-user', '-type', 'f').split('\n');
  const unwanted = files.filter((file) =>
    /\/(test|generator|\.ci)\/|\.test\.|\.o$|tsconfig/.test(file.replace(/native\/obj\/.*/, '')),
  );
  assert.equal(unwanted, []);
  assert.ok(files.includes('node_modules/vhost-user/LICENSE'));
  assert.ok(
    files.includes('node_modules/vhost-user/build/native/vhost_user.node'),
    'the addon was built by npm install',
  );
});

for (const [module, resolution] of [
  ['nodenext', 'nodenext'],
  ['esnext', 'bundler'],
] as const) {
  test(`the types resolve with moduleResolution ${resolution}, library declarations checked too; all examples compile`, () => {
    write('tsconfig.json', compilerOptions(module, resolution, true));
    run('npx', 'tsc', '-p', '.');
  });
}

test('the programs are on the path of npm scripts', () => {
  const { version } = JSON.parse(readFileSync(join(repository, 'package.json'), 'utf8')) as {
    version: string;
  };
  for (const name of ['vhost-user-blk', 'vhost-user-rng'])
    assert.match(run('npx', name, '--version'), version);
});

test("a device of the reader's own serves a guest", async () => {
  write('tsconfig.json', compilerOptions('nodenext', 'nodenext', false));
  run('npx', 'tsc', '-p', '.');
  const socket = folder.file('rng');
  await using program = await startListening(
    'device.js',
    socket,
    process.execPath,
    ['out/device.js', socket],
    project,
  );
  await using guest = await Guest.boot({
    devices: ['-chardev', `socket,id=c0,path=${socket}`, '-device', 'vhost-user-rng-pci,chardev=c0'],
  });
  const bytes = await guest.read(
    'dd if=/dev/hwrng bs=16 count=4 iflag=fullblock 2> /dev/null | hexdump -v -e \'16/1 "%02x " "\\n"\'',
  );
  const numbers = bytes
    .split(/\s+/)
    .filter((each) => each !== '')
    .map((each) => Number.parseInt(each, 16));
  assert.is(numbers.length, 64);
  const steps = numbers.slice(1).filter((value, i) => value === ((numbers[i]! + 1) & 0xff)).length;
  assert.ok(steps > 50, `the bytes count upwards: ${bytes}`);
  assert.is(program.exit, null);
});

test('the codecs import without the addon, and so does their bundle in a browser', async () => {
  const expected = JSON.stringify([
    { index: 1, num: 256 },
    [1, 0, 0, 0, 0, 1, 0, 0],
    8,
    'VHOST_USER_SET_VRING_NUM',
    8,
  ]);
  const addon = join(installed, 'build/native/vhost_user.node');
  renameSync(addon, folder.file('addon'));
  try {
    const script = "import('./out/codecs.js').then(({ result }) => process.stdout.write(result))";
    assert.is(run(process.execPath, '-e', script), expected);
    assert.is.not(
      spawnSync(process.execPath, ['out/device.js', folder.file('none')], { cwd: project }).status,
      0,
    );
  } finally {
    renameSync(folder.file('addon'), addon);
  }
  const { outputFiles, metafile } = await build({
    entryPoints: [join(project, 'codecs.ts')],
    bundle: true,
    platform: 'browser',
    format: 'iife',
    globalName: 'codecs',
    write: false,
    metafile: true,
    absWorkingDir: project,
  });
  const inputs = Object.keys(metafile.inputs).filter((path) => path.includes('vhost-user'));
  assert.ok(inputs.length > 0);
  for (const path of inputs)
    assert.match(path, /vhost-user\/build\/(generated|runtime\/wire|runtime\/errors)/);
  // A bare context: neither process nor Buffer nor require, as in a browser.
  const page = createContext({});
  runInContext(outputFiles[0]!.text, page);
  assert.is(runInContext('codecs.result', page), expected);
});

test('a bundle holds the codecs that are used, and no others', async () => {
  const bundle = async (name: string) => {
    const contents = `import { ${name} } from 'vhost-user/codecs'; globalThis.used = ${name};`;
    const { outputFiles } = await build({
      stdin: { contents, resolveDir: project },
      bundle: true,
      platform: 'browser',
      format: 'esm',
      write: false,
      absWorkingDir: project,
    });
    return outputFiles[0]!.text;
  };
  assert.not.match(await bundle('MessageHeader'), /frontend-request|blk|virtq/);
  assert.not.match(await bundle('VirtqDesc'), /frontend-request|blk|MessageHeader/);
});

test.run();
