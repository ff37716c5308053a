import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { BlockDevice } from '../../runtime/devices/blk/index.js';
import { platform } from './support.js';

const test = suite('who else writes to an image');

const here = dirname(fileURLToPath(import.meta.url));

async function withImage(body: (path: string) => Promise<void>): Promise<void> {
  const folder = mkdtempSync(join(here, 'lock-'));
  try {
    const path = join(folder, 'image');
    writeFileSync(path, new Uint8Array(1 << 16));
    await body(path);
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** A process that has the image open for writing, until it is killed. */
async function holder(path: string): Promise<() => Promise<void>> {
  const linux = new URL('../../runtime/platform/linux.js', import.meta.url).href;
  const script = `
    import { createLinuxPlatform } from ${JSON.stringify(linux)};
    createLinuxPlatform().openFile(${JSON.stringify(path)}, { readOnly: false });
    console.log('open');
    setInterval(() => {}, 1000);`;
  const child = spawn(process.execPath, ['--input-type=module', '-e', script], {
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  await once(child.stdout, 'data');
  return async () => {
    child.kill('SIGKILL');
    await once(child, 'close');
  };
}

for (const direct of [false, true]) {
  test(`a file is held by those who have it open for writing, not by itself${direct ? ' (O_DIRECT)' : ''}`, () =>
    withImage(async (path) => {
      const file = platform.openFile(path, { readOnly: false, direct });
      assert.is(file.heldElsewhere(), false);
      const reader = platform.openFile(path, { readOnly: true });
      assert.is(file.heldElsewhere(), false, 'a reader writes nothing');
      assert.is(reader.heldElsewhere(), false, 'and asks nobody');
      const other = platform.openFile(path, { readOnly: false });
      assert.is(file.heldElsewhere(), true);
      assert.is(other.heldElsewhere(), true);
      await file.close();
      assert.is(file.heldElsewhere(), false, 'closed');
      assert.is(other.heldElsewhere(), false);
      await other.close();
      await reader.close();
    }));
}

test('requests to resume wait until the last one lets go of the image, and the loop goes on', () =>
  withImage(async (path) => {
    const kill = await holder(path);
    const file = platform.openFile(path, { readOnly: false });
    const device = new BlockDevice(file, { settleLimit: 2 ** 31 - 1 });
    let settled = false;
    const waiting = device.settled()!.then(() => (settled = true));
    for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
    assert.not(settled);
    await kill();
    await waiting;
    assert.is(file.heldElsewhere(), false);
    assert.is(device.settled(), null, 'now there is nobody to wait for');
    await file.close();
  }));

test('two that resume one image at the same time wait no longer than their limit', () =>
  withImage(async (path) => {
    const files = [1, 2].map(() => platform.openFile(path, { readOnly: false }));
    await Promise.all(files.map((file) => new BlockDevice(file, { settleLimit: 20 }).settled()!));
    assert.equal(
      files.map((file) => file.heldElsewhere()),
      [true, true],
      'neither lost its own hold by asking',
    );
    for (const file of files) await file.close();
  }));

test.run();
