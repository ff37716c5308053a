import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import * as generated from '../../generated/index.js';
import { closeFeatures, featureNames, type FeatureTable, type RequestRow } from '../../runtime/wire/index.js';
import { camelCase, pascalCase } from '../../generator/names.js';
import type { FeaturesFile, LayoutRef, MessagesFile } from '../../generator/model/types.js';
import { projectModel } from '../support/toy-schema.js';

const tables = suite('generated tables');
const model = projectModel();
const exported = generated as unknown as Record<string, unknown>;
const { backendRequestById, backendRequests, FrontendRequestId, frontendRequestById, frontendRequests } = generated;
const { ProtocolFeature, protocolFeatureTable, VirtioFeature } = generated;

tables('hold all 45 requests of the front-end and all 10 of the back-end, each id once', () => {
  assert.equal([...frontendRequestById.keys()], Array.from({ length: 45 }, (_, index) => index + 1));
  assert.equal([...backendRequestById.keys()], Array.from({ length: 10 }, (_, index) => index + 1));
});

tables('give the same row by name and by id', () => {
  for (const [name, row] of Object.entries(frontendRequests)) {
    assert.is(row.name, name);
    assert.is(frontendRequestById.get(row.id), row);
    assert.is(FrontendRequestId[name as keyof typeof FrontendRequestId], row.id);
  }
  for (const [name, row] of Object.entries(backendRequests)) {
    assert.is(row.name, name);
    assert.is(backendRequestById.get(row.id), row);
  }
});

for (const file of model.files.filter((each): each is MessagesFile => each.kind === 'messages')) {
  tables(`${file.path}: rows say what the schema says`, () => {
    const rows = exported[`${camelCase(file.name)}s`] as Record<string, RequestRow>;
    assert.is(Object.keys(rows).length, file.requests.length);
    for (const request of file.requests) {
      const row = rows[camelCase(request.name)]!;
      assert.is(row.specName, request.specName);
      assert.is(row.payload?.layout ?? null, layoutName(request.payload), request.name);
      assert.equal([row.fds.role, row.fds.min, row.fds.max], [request.fds.role, request.fds.min, request.fds.max]);
      assert.is(row.reply.kind, request.reply.kind);
      if (row.reply.kind === 'payload' && request.reply.kind === 'payload') {
        assert.is(row.reply.codec?.layout ?? null, layoutName(request.reply.payload), request.name);
        assert.is(row.reply.fds, request.reply.fds);
      }
      assert.is(row.reply.when === undefined, request.reply.when === null);
      const mask = (refs: readonly { bit: number }[]) => refs.reduce((sum, { bit }) => sum | (1n << BigInt(bit)), 0n);
      assert.is(row.gate.protocol, mask(request.gate.protocol));
      assert.is(row.gate.virtio, mask(request.gate.virtio));
      assert.is(row.gate.excludes, mask(request.gate.excludes));
    }
  });
}

tables('a row that counts its fds by a list of the payload names that list as the decoded value does', () => {
  assert.is(frontendRequests.setMemTable.fds.countOf, 'regions');
  const table: generated.MemoryTable = { regions: [] };
  assert.ok(frontendRequests.setMemTable.fds.countOf! in table);
});

tables('SET_LOG_BASE is answered only with LOG_SHMFD, SET_MEM_TABLE only in postcopy', () => {
  assert.is(frontendRequests.setLogBase.reply.kind, 'ack');
  assert.is(frontendRequests.setLogBase.reply.when?.protocol, ProtocolFeature.logShmfd);
  assert.is(frontendRequests.setMemTable.reply.when?.state, 'postcopy-listening');
});

for (const file of model.files.filter((each): each is FeaturesFile => each.kind === 'features')) {
  const table = exported[`${camelCase(file.name)}Table`] as FeatureTable;
  const masks = exported[pascalCase(file.name)] as Record<string, bigint>;
  const close = exported[`close${pascalCase(file.name)}s`] as (word: bigint) => bigint;

  tables(`${file.path}: masks and table have the bits of the schema`, () => {
    for (const bit of file.bits) assert.is(masks[camelCase(bit.name)], 1n << BigInt(bit.bit));
    assert.equal(
      table.bits.map((bit) => [bit.bit, bit.specName]),
      file.bits.map((bit) => [bit.bit, bit.specName]),
    );
  });

  tables(`${file.path}: the closure drops a bit without its dependencies and keeps everything else`, () => {
    const all = file.bits.reduce((word, bit) => word | (1n << BigInt(bit.bit)), 0n);
    assert.is(close(all), all);
    assert.is(close(0n), 0n);
    for (const bit of file.bits) {
      const needed = file.bits.filter((each) => bit.requires.includes(each.name));
      const alone = 1n << BigInt(bit.bit);
      assert.is(close(alone), needed.length === 0 ? alone : 0n, bit.name);
      for (const each of needed) assert.is(close(all & ~(1n << BigInt(each.bit))) & alone, 0n, `${bit.name} without ${each.name}`);
    }
    const closed = close(all & ~1n);
    assert.is(close(closed), closed);
  });

  tables(`${file.path}: the mask of what can be negotiated has no bit beyond the word`, () => {
    const mask = exported[`negotiable${pascalCase(file.name)}s`] as bigint;
    assert.is(mask, BigInt.asUintN(64, mask));
    for (const bit of file.bits) {
      assert.is((mask >> BigInt(bit.bit)) & 1n, bit.negotiable && bit.bit < 64 ? 1n : 0n, bit.name);
    }
  });
}

tables('INBAND_NOTIFICATIONS falls without REPLY_ACK, and chains of dependencies fall together', () => {
  const { backendReq, getVringBaseInflight, getVringBaseSkipDrain, inbandNotifications, inflightShmfd } = ProtocolFeature;
  assert.is(closeFeatures(protocolFeatureTable, inbandNotifications | backendReq), backendReq);
  assert.is(generated.closeProtocolFeatures(getVringBaseSkipDrain | getVringBaseInflight), 0n);
  const whole = getVringBaseSkipDrain | getVringBaseInflight | inflightShmfd;
  assert.is(generated.closeProtocolFeatures(whole), whole);
});

tables('unknown bits survive the closure and are named by number', () => {
  const unknown = 1n << 60n;
  assert.is(generated.closeProtocolFeatures(unknown), unknown);
  assert.equal(featureNames(protocolFeatureTable, unknown | ProtocolFeature.mq), ['VHOST_USER_PROTOCOL_F_MQ', 'bit 60']);
  assert.is(VirtioFeature.ringPacked, 1n << 34n);
});

function layoutName(layout: LayoutRef | null): string | null {
  return layout === null ? null : layout.kind === 'scalar' ? layout.type : layout.name;
}

tables.run();
