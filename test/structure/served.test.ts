/** PROTOCOL.md tells what is served; here it is compared with what is. */
import { readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { VirtioDevice } from '../../runtime/device/index.js';
import { SharedMemory } from '../../runtime/memory/shared-memory.js';
import { createFakePlatform } from '../../runtime/platform/fake.js';
import { refusedHandlers } from '../../runtime/vhost-user/backend/handlers/refused.js';
import {
  offeredFeatures,
  offeredProtocolFeatures,
} from '../../runtime/vhost-user/backend/offered-features.js';
import { defaultBackendHandlers } from '../../runtime/vhost-user/frontend/backend-handlers.js';
import { SUPPORTED_PROTOCOL_FEATURES } from '../../runtime/vhost-user/frontend/feature-filter.js';
import { Frontend } from '../../runtime/vhost-user/frontend/frontend.js';
import { SharedObjectRegistry } from '../../runtime/vhost-user/frontend/shared-objects.js';
import type { FeatureTable, RequestRow } from '../../runtime/wire/index.js';
import { backendRequests } from '../../generated/vhost-user/backend-requests.js';
import { frontendRequests } from '../../generated/vhost-user/frontend-requests.js';
import { protocolFeatureTable } from '../../generated/vhost-user/protocol-features.js';
import { VirtioFeature, virtioFeatureTable } from '../../generated/virtio/features.js';
import { RawBackend } from '../support/raw-backend.js';
import { bytes, PROTOCOL_FEATURES, until, VERSION_1 } from '../support/raw-frontend.js';
import { repositoryRoot } from '../support/repository.js';

const test = suite('what is served');

const page = readFileSync(join(repositoryRoot(), 'PROTOCOL.md'), 'utf8');

/** The rows of the table under a heading, cell by cell. */
function rows(heading: string): string[][] {
  const part = page.split(`## ${heading}\n`)[1]?.split('\n## ')[0] ?? '';
  return part
    .split('\n')
    .filter((line) => line.startsWith('|'))
    .slice(2)
    .map((line) =>
      line
        .split('|')
        .slice(1, -1)
        .map((cell) => cell.trim()),
    );
}

/** All source text of a folder. */
function source(folder: string): string {
  const path = join(repositoryRoot(), folder);
  return readdirSync(path, { recursive: true, encoding: 'utf8' })
    .filter((file) => file.endsWith('.ts'))
    .map((file) => readFileSync(join(path, file), 'utf8'))
    .join('\n');
}

/** The words before the colon, which are what the code is compared with. */
function verdict(cell: string): string {
  return cell.split(':')[0]!;
}

function requestTable(requests: Record<string, RequestRow>): [string, string][] {
  return Object.values(requests)
    .sort((a, b) => a.id - b.id)
    .map(({ id, specName }) => [String(id), specName.replace('VHOST_USER_', '')]);
}

function bitTable({ bits }: FeatureTable): [string, string][] {
  return bits.map(({ bit, specName }) => [
    String(bit),
    specName.replace(/^(VHOST_USER_PROTOCOL_F|VHOST_USER_F|VIRTIO_F|VHOST_F)_/, ''),
  ]);
}

/** A device that has every member. */
const EVERYTHING = new Proxy({} as VirtioDevice, {
  get: (_, name) => (name === 'features' ? 0n : name === 'sharedMemory' ? [] : true),
});
const NOTHING = { features: 0n } as VirtioDevice;
const ALL_BITS = Array.from({ length: 64 }, (_, bit) => 1n << BigInt(bit));

test('every request of the front-end has its row', () => {
  const table = rows('Requests of the front-end');
  assert.equal(
    table.map(([id, name]) => [id, name]),
    requestTable(frontendRequests),
  );
  const sent = source('runtime/vhost-user/frontend');
  for (const { name, id, specName } of Object.values(frontendRequests)) {
    const [, , backend, frontend] = table[id - 1]!;
    const refused = name in refusedHandlers;
    assert.is(verdict(backend!), refused ? 'refused' : 'served', `${specName} at the back-end`);
    if (refused) assert.ok(backend!.length > 'refused: '.length, `${specName} is refused, why?`);
    const own = sent.includes(`'${name}'`);
    assert.is(verdict(frontend!), own ? 'sent' : 'by its user', `${specName} at the front-end`);
  }
});

test('every request of the back-end has its row', () => {
  const table = rows('Requests of the back-end');
  assert.equal(
    table.map(([id, name]) => [id, name]),
    requestTable(backendRequests),
  );
  const sent = source('runtime/vhost-user/backend');
  for (const { name, id, specName } of Object.values(backendRequests)) {
    const [, , backend, frontend] = table[id - 1]!;
    const own = sent.includes(`'${name}'`);
    assert.is(verdict(backend!), own ? 'sent' : 'not sent', `${specName} at the back-end`);
    const served = name in defaultBackendHandlers;
    assert.is(verdict(frontend!), served ? 'served' : 'refused', `${specName} at the front-end`);
  }
});

test('every protocol feature has its row: what the back-end offers', () => {
  const table = rows('Protocol features');
  assert.equal(
    table.map(([bit, name]) => [bit, name]),
    bitTable(protocolFeatureTable),
  );
  const always = offeredProtocolFeatures(NOTHING, 0n);
  const withDevice = offeredProtocolFeatures(EVERYTHING, 0n);
  const onRequest = ALL_BITS.reduce((word, bit) => word | offeredProtocolFeatures(EVERYTHING, bit), 0n);
  for (const [i, { bit, specName }] of protocolFeatureTable.bits.entries()) {
    const mask = 1n << BigInt(bit);
    const cell = table[i]![2]!;
    const expected =
      (always & mask) !== 0n
        ? /^offered(:|$)/
        : (withDevice & mask) !== 0n
          ? /^offered with `(?!withProtocolFeatures)/
          : (onRequest & mask) !== 0n
            ? /^offered with `withProtocolFeatures`/
            : /^not offered(:|$)/;
    assert.match(cell, expected, specName);
  }
});

test('every protocol feature has its row: what the front-end accepts', async () => {
  const table = rows('Protocol features');
  const platform = createFakePlatform();
  const { backend, stream } = RawBackend.pair(platform, {
    getFeatures: bytes(VERSION_1 | PROTOCOL_FEATURES),
    getProtocolFeatures: bytes((1n << 64n) - 1n),
    getShmemConfig: new Uint8Array(2056),
  });
  const memory = new SharedMemory(platform, { size: 1 << 16 });
  const frontend = await Frontend.attach({
    platform,
    memory,
    stream,
    features: { supported: VirtioFeature.version1 },
    inbandNotifications: true,
    gpaAddresses: true,
    hostNotifiers: {},
    shmem: {},
    sharedObjects: new SharedObjectRegistry(),
  });
  const { protocol } = frontend.negotiated;
  for (const [i, { bit, specName }] of protocolFeatureTable.bits.entries()) {
    const mask = 1n << BigInt(bit);
    const cell = table[i]![3]!;
    const expected =
      (SUPPORTED_PROTOCOL_FEATURES & mask) !== 0n
        ? /^accepted(:|$)/
        : (protocol & mask) !== 0n
          ? /^accepted with `(?!features)/
          : /^(not accepted(:|$)|accepted with `features.protocol`)/;
    assert.match(cell, expected, specName);
  }
  frontend.close();
  await until(() => backend.hungUp, 'the front-end hangs up');
  backend.close();
  memory[Symbol.dispose]();
});

test('every virtio feature that device types share has its row', () => {
  const table = rows('Virtio features');
  assert.equal(
    table.map(([bit, name]) => [bit, name]),
    bitTable(virtioFeatureTable),
  );
  const offered = offeredFeatures(NOTHING, 0n);
  for (const [i, { bit, specName }] of virtioFeatureTable.bits.entries()) {
    const is = (offered & (1n << BigInt(bit))) !== 0n;
    assert.match(table[i]![2]!, is ? /^offered(:|$)/ : /^(not offered|offered with)/, specName);
  }
});

test.run();
