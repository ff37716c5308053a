import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parse } from 'yaml';
import { formatDiagnostic } from '../../generator/load/diagnostic.js';
import { loadModel } from '../../generator/load/load-model.js';
import { readSchema } from '../../generator/load/read-schema.js';
import type {
  FeaturesFile,
  LayoutsFile,
  MessagesFile,
  Request,
  Struct,
} from '../../generator/model/types.js';
import { rules } from '../../generator/rules/registry.js';
import { repositoryRoot } from '../support/repository.js';

const texts = readSchema(join(repositoryRoot(), 'schema'));
const loaded = loadModel(texts);
const files = loaded.model?.files ?? [];

function file<Kind extends MessagesFile | FeaturesFile | LayoutsFile>(path: string): Kind {
  const found = files.find((candidate) => candidate.path === path);
  assert.ok(found, `schema/${path}.yaml`);
  return found as Kind;
}

const frontend = (): MessagesFile => file('vhost-user/frontend-requests');
const backend = (): MessagesFile => file('vhost-user/backend-requests');
const protocol = (): FeaturesFile => file('vhost-user/protocol-features');

function request(name: string): Request {
  const found = [...frontend().requests, ...backend().requests].find((candidate) => candidate.name === name);
  assert.ok(found, name);
  return found;
}

function struct(path: string, name: string): Struct {
  const found = file<LayoutsFile>(path).structs.find((candidate) => candidate.name === name);
  assert.ok(found, name);
  return found;
}

const offsets = (path: string, name: string): (number | null)[] =>
  struct(path, name).fields.map((field) => field.offset);

const load = suite('loading the schema');

load('gives no diagnostics', () => {
  assert.equal(loaded.diagnostics.map(formatDiagnostic), []);
  assert.ok(loaded.model);
});

load('gives the same model whatever order the files come in, and is plain data', () => {
  const reversed = new Map([...texts].reverse());
  assert.is(JSON.stringify(loadModel(reversed).model), JSON.stringify(loaded.model));
  assert.equal(JSON.parse(JSON.stringify(loaded.model)), loaded.model);
});

load('reports every wrong file at once, sorted by place', () => {
  const broken = new Map(texts);
  broken.set('virtio/status.yaml', texts.get('virtio/status.yaml')!.replace('bit: 4', 'bit: 9'));
  broken.set(
    'vhost-user/header.yaml',
    texts.get('vhost-user/header.yaml')!.replace('type: u32, offset: 4', 'type: u32, offset: 5'),
  );
  const { model, diagnostics } = loadModel(broken);
  assert.is(model, null);
  assert.equal(
    diagnostics.map(({ file: name, code }) => `${name} ${code}`),
    ['schema/vhost-user/header.yaml offsets-match', 'schema/virtio/status.yaml bit-within-width'],
  );
});

load('a file that is not YAML does not hide another one', () => {
  const broken = new Map([...texts, ['a.yaml', 'a: [1'], ['b.yaml', 'b: *nowhere']]);
  assert.equal(
    [...new Set(loadModel(broken).diagnostics.map((diagnostic) => diagnostic.file))],
    ['schema/a.yaml', 'schema/b.yaml'],
  );
});

load('does not resolve names from the prototype of objects', () => {
  const text = texts.get('vhost-user/payloads.yaml')!;
  const broken = new Map([
    ...texts,
    ['vhost-user/payloads.yaml', text.replace('type: memory-region,', 'type: constructor,')],
  ]);
  assert.ok(loadModel(broken).diagnostics.some(({ code }) => code === 'references-resolve'));
});

load.run();

const language = suite('the language');

language('each schema of the schemas has an id with a major number', () => {
  for (const name of ['common', 'messages', 'features', 'layouts']) {
    const meta = parse(texts.get(`meta/${name}.yaml`)!) as { $id: string };
    assert.match(meta.$id, new RegExp(`^urn:vhost-user:schema:${name}:\\d+$`));
  }
});

language('every map is closed and every key is described', () => {
  const common = parse(texts.get('meta/common.yaml')!) as Node;
  for (const name of ['common', 'messages', 'features', 'layouts']) {
    const meta = parse(texts.get(`meta/${name}.yaml`)!) as Node;
    visitSchema(meta, name, (node, path) => {
      if (node.properties) {
        assert.is(node.additionalProperties, false, `${path.join(' ')} is open`);
        for (const [key, property] of Object.entries(node.properties)) {
          assert.ok(describedBy(property, meta, common), `${path.join(' ')} ${key} has no description`);
        }
      }
    });
  }
});

language('each rule is in a file of its name', () => {
  const helpers = ['computed-layout', 'registry', 'rule', 'walk'];
  const names = readdirSync(join(repositoryRoot(), 'generator/rules')).map((name) =>
    name.replace(/\.ts$/, ''),
  );
  assert.equal([...rules.map((rule) => rule.code), ...helpers].sort(), names.sort());
});

language.run();

const facts = suite('the schema says what the protocol is');

facts('45 requests of the front-end and 10 of the back-end, each id once', () => {
  const ids = (messages: MessagesFile): number[] => messages.requests.map(({ id }) => id);
  assert.equal(
    ids(frontend()),
    Array.from({ length: 45 }, (_, index) => index + 1),
  );
  assert.equal(
    ids(backend()),
    Array.from({ length: 10 }, (_, index) => index + 1),
  );
});

facts('24 protocol features, bits 0 to 23', () => {
  assert.equal(
    protocol().bits.map(({ bit }) => bit),
    Array.from({ length: 24 }, (_, index) => index),
  );
});

facts('dependencies of protocol features', () => {
  const requires = Object.fromEntries(protocol().bits.map((bit) => [bit.name, bit.requires]));
  assert.equal(requires['inband-notifications'], ['reply-ack', 'backend-req']);
  assert.equal(requires['backend-send-fd'], ['backend-req']);
  assert.equal(requires['host-notifier'], ['backend-req', 'backend-send-fd']);
  assert.equal(requires['shmem'], ['backend-req', 'backend-send-fd']);
  assert.equal(requires['get-vring-base-skip-drain'], ['inflight-shmfd', 'get-vring-base-inflight']);
});

facts('mandatory replies: exactly those of the protocol', () => {
  const answered = frontend()
    .requests.filter(({ reply }) => reply.kind === 'payload')
    .map(({ id }) => id);
  assert.equal(answered, [1, 11, 15, 17, 22, 24, 26, 28, 30, 31, 36, 40, 41, 42, 43, 44, 45]);
});

facts('trap 4: SET_LOG_BASE is answered with LOG_SHMFD only, with 0 or 8 bytes', () => {
  const { payload, reply, fds } = request('set-log-base');
  assert.equal(payload, { kind: 'struct', file: 'vhost-user/payloads', name: 'log-region' });
  assert.is(reply.kind, 'ack');
  assert.equal(
    reply.when?.protocol.map(({ name, bit }) => [name, bit]),
    [['log-shmfd', 1]],
  );
  const then = reply.when!.then;
  assert.ok(then.kind === 'payload' && then.empty === 'success');
  assert.equal(then.kind === 'payload' && then.payload, { kind: 'scalar', type: 'u64' });
  assert.equal([fds.min, fds.max], [0, 1]);
});

facts('SET_MEM_TABLE has an fd a region and, while postcopy listens, a reply that is confirmed', () => {
  const { fds, reply } = request('set-mem-table');
  assert.equal([fds.countOf, fds.max], ['regions', 8]);
  assert.is(reply.kind, 'ack');
  assert.is(reply.when?.state, 'postcopy-listening');
  const then = reply.when!.then;
  assert.ok(then.kind === 'payload' && then.confirmed);
});

facts('trap 6: GET_CONFIG may be answered with an empty payload, an error', () => {
  const { reply } = request('get-config');
  assert.ok(reply.kind === 'payload' && reply.empty === 'error');
});

facts('trap 7: REM_MEM_REG tolerates one stray fd, ADD_MEM_REG wants exactly one', () => {
  assert.equal([request('rem-mem-reg').fds.max, request('rem-mem-reg').fds.tolerated], [0, 1]);
  assert.equal([request('add-mem-reg').fds.min, request('add-mem-reg').fds.max], [1, 1]);
});

facts('trap 10: kick, call and err carry an fd unless bit 8 says no', () => {
  for (const name of ['set-vring-kick', 'set-vring-call', 'set-vring-err']) {
    const { fds, payload } = request(name);
    assert.equal([fds.min, fds.max, fds.absentIfBit], [0, 1, 8], name);
    assert.equal(payload, { kind: 'scalar', type: 'u64' });
  }
});

facts('replies that carry an fd', () => {
  const carrying = [...frontend().requests, ...backend().requests]
    .filter(({ reply }) => reply.kind === 'payload' && reply.fds === 1)
    .map(({ name, reply }) => [name, reply.kind === 'payload' && reply.fdRole]);
  assert.equal(carrying, [
    ['postcopy-advise', 'userfault'],
    ['get-inflight-fd', 'inflight'],
    ['get-shared-object', 'dma-buf'],
    ['set-device-state-fd', 'device-state'],
    ['backend-shared-object-lookup', 'dma-buf'],
  ]);
});

facts('gates: offered for the protocol features, excluded for postcopy, the channel for the back-end', () => {
  assert.is(request('get-protocol-features').gate.virtioOffered, true);
  assert.is(request('set-vring-enable').gate.virtioOffered, false);
  assert.equal(
    request('set-vring-enable').gate.virtio.map(({ bit }) => bit),
    [30],
  );
  assert.equal(
    request('postcopy-advise').gate.excludes.map(({ bit }) => bit),
    [15],
  );
  for (const { name, gate } of backend().requests) {
    assert.ok(
      gate.protocol.some(({ bit }) => bit === 5),
      name,
    );
  }
  assert.equal(
    request('backend-shmem-map').gate.protocol.map(({ bit }) => bit),
    [5, 22, 10],
  );
});

facts('trap 3: sizes of payloads, with their padding', () => {
  const sizes: Record<string, number> = {
    'vring-state': 8,
    'vring-index-split': 8,
    'vring-indices-packed': 8,
    'vring-address': 40,
    'memory-region': 32,
    'memory-region-xen': 40,
    'single-memory-region': 40,
    'single-memory-region-xen': 48,
    'log-region': 16,
    'iotlb-message': 32,
    'vring-area': 24,
    'inflight-description': 24,
    'shared-object': 16,
    'device-state-transfer': 8,
    'shmem-map': 40,
    'shmem-config': 2056,
  };
  for (const [name, size] of Object.entries(sizes))
    assert.is(struct('vhost-user/payloads', name).size, size, name);
  const table = struct('vhost-user/payloads', 'memory-table');
  assert.equal([table.minSize, table.maxSize], [8, 8 + 32 * 8]);
  assert.is(struct('vhost-user/header', 'message-header').size, 12);
});

facts('bases of rings are ranges of bits', () => {
  const parts = (name: string): unknown =>
    struct('vhost-user/payloads', name).fields[1]!.parts.map(({ lowBit, width }) => [lowBit, width]);
  assert.equal(parts('vring-index-split'), [
    [0, 16],
    [16, 16],
  ]);
  assert.equal(parts('vring-indices-packed'), [
    [0, 15],
    [15, 1],
    [16, 15],
    [31, 1],
  ]);
});

facts('in-flight regions: split header 16, packed header 32, entries 16 and 32', () => {
  assert.equal(struct('vhost-user/inflight', 'inflight-region-split').sizeOf, {
    base: 16,
    step: 16,
    param: 'queue-size',
  });
  assert.equal(struct('vhost-user/inflight', 'inflight-region-packed').sizeOf, {
    base: 32,
    step: 32,
    param: 'queue-size',
  });
  assert.equal(offsets('vhost-user/inflight', 'inflight-descriptor-split'), [0, 1, 6, 8]);
  assert.equal(
    offsets('vhost-user/inflight', 'inflight-descriptor-packed'),
    [0, 1, 2, 4, 6, 8, 16, 18, 20, 24],
  );
});

facts('rings: event words lie behind the list that the size of the queue counts', () => {
  const last = (name: string): unknown => struct('virtio/split-virtqueue', name).fields.at(-1)!.offsetOf;
  assert.equal(last('virtq-avail'), { base: 4, step: 2, param: 'queue-size' });
  assert.equal(last('virtq-used'), { base: 4, step: 8, param: 'queue-size' });
  assert.equal(offsets('virtio/split-virtqueue', 'virtq-desc'), [0, 8, 12, 14]);
  assert.equal(offsets('virtio/packed-virtqueue', 'packed-desc'), [0, 8, 12, 14]);
});

facts('virtio: generic features, status bits and device types', () => {
  const features = file<FeaturesFile>('virtio/features');
  assert.equal(
    features.bits.map(({ bit }) => bit),
    [24, 26, 27, 28, 29, 30, 32, 33, 34, 35, 36, 37, 38, 39, 40, 41, 43],
  );
  const [status] = file<LayoutsFile>('virtio/status').enums;
  assert.equal(
    status!.members.map(({ value }) => value),
    [0, 1, 2, 3, 4, 6, 7],
  );
  const [ids] = file<LayoutsFile>('virtio/device-ids').enums;
  const numbers = Array.from({ length: 49 }, (_, index) => index + 1).filter((id) => id !== 14 && id !== 15);
  assert.equal(
    ids!.members.map(({ value }) => value),
    numbers,
  );
});

facts('block device: features, 96 bytes of configuration, requests and statuses', () => {
  const features = file<FeaturesFile>('virtio/devices/blk/features');
  assert.equal(
    features.bits.map(({ bit }) => bit),
    [0, 1, 2, 4, 5, 6, 7, 9, 10, 11, 12, 13, 14, 15, 16, 17],
  );
  const blk = file<LayoutsFile>('virtio/devices/blk/layouts');
  const values = (name: string): unknown =>
    blk.enums.find((candidate) => candidate.name === name)!.members.map(({ value }) => value);
  assert.equal(values('blk-request-type'), [0, 1, 2, 3, 4, 5, 8, 10, 11, 13, 14, 15, 16, 18, 20, 22, 24, 26]);
  assert.equal(values('blk-status'), [0, 1, 2, 3, 4, 5, 6]);
  const config = struct('virtio/devices/blk/layouts', 'blk-config');
  assert.equal([config.size, config.proof?.size], [96, 72]);
  assert.is(config.fields.find(({ name }) => name === 'zoned')!.offset, 72);
  assert.equal(
    blk.queues.map(({ index, repeats }) => [index, repeats]),
    [[0, true]],
  );
});

facts('every departure from the text has a section and a reason', () => {
  let count = 0;
  for (const { erratum, ref } of [...frontend().requests, ...protocol().bits]) {
    if (erratum === null) continue;
    count++;
    assert.ok(ref !== null && erratum.length > 20);
  }
  assert.ok(count >= 10);
});

facts('old names are on record', () => {
  const renamed = Object.fromEntries(
    [...frontend().requests, ...backend().requests, ...protocol().bits].flatMap((item) =>
      item.renamed.map(({ from }) => [from, item.name]),
    ),
  );
  assert.is(renamed['SLAVE_REQ'], 'backend-req');
  assert.is(renamed['VHOST_USER_SET_SLAVE_REQ_FD'], 'set-backend-req-fd');
  assert.is(renamed['VHOST_USER_SLAVE_VRING_CALL'], 'backend-vring-call');
});

facts.run();

interface Node {
  readonly [key: string]: unknown;
  readonly $defs?: Record<string, Node>;
  readonly properties?: Record<string, Node>;
  readonly additionalProperties?: unknown;
}

/** Every subschema that describes a value; conditions only narrow one and are left out. */
function visitSchema(
  node: Node,
  name: string,
  visit: (node: Node, path: string[]) => void,
  path = [name],
): void {
  visit(node, path);
  for (const key of ['properties', '$defs'] as const) {
    for (const [inner, child] of Object.entries(node[key] ?? {}))
      visitSchema(child, name, visit, [...path, inner]);
  }
  if (node['items']) visitSchema(node['items'] as Node, name, visit, [...path, 'items']);
}

/** The description of a key, its own or that of what it refers to. */
function describedBy(property: Node, meta: Node, common: Node): unknown {
  if (property['description']) return property['description'];
  const [where, name] = String(property['$ref'] ?? '').split('#/$defs/');
  return name === undefined ? undefined : (where === '' ? meta : common).$defs?.[name]?.['description'];
}
