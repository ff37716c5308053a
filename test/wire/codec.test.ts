import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { type Codec, decodeExactly, encodeToBytes, u64, WireError } from '../../runtime/wire/index.js';

/** A counted list of u16, as a generated codec would be. */
const list: Codec<{ items: number[] }> = {
  layout: 'list',
  minSize: 1,
  maxSize: 511,
  size: ({ items }) => 1 + items.length * 2,
  decode: (reader) => {
    const count = reader.u8('list.count');
    return { items: Array.from({ length: count }, () => reader.u16('list.items')) };
  },
  encode: (writer, { items }) => {
    writer.u8(items.length, 'list.count');
    for (const item of items) writer.u16(item, 'list.items');
  },
};

function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof WireError) return error.code;
    throw error;
  }
  return 'none';
}

test('a value comes back from its own bytes', () => {
  for (const items of [[], [1], [0, 0xffff, 7]]) {
    const bytes = encodeToBytes(list, { items });
    assert.is(bytes.byteLength, 1 + items.length * 2);
    assert.equal(decodeExactly(list, bytes), { items });
  }
});

test('every shorter and every longer form is refused', () => {
  const bytes = encodeToBytes(list, { items: [1, 2, 3] });
  for (let length = 0; length < bytes.byteLength; length++) {
    assert.is(
      code(() => decodeExactly(list, bytes.subarray(0, length))),
      'ERR_WIRE_TRUNCATED',
    );
  }
  assert.is(
    code(() => decodeExactly(list, Uint8Array.of(...bytes, 0))),
    'ERR_WIRE_TRAILING',
  );
});

test('a count that claims more than is there is refused at the first missing item', () => {
  assert.is(
    code(() => decodeExactly(list, Uint8Array.of(255, 1, 0))),
    'ERR_WIRE_TRUNCATED',
  );
});

test('the u64 payload is 8 bytes, no more and no less', () => {
  const top = (1n << 64n) - 1n;
  assert.is(decodeExactly(u64, encodeToBytes(u64, top)), top);
  assert.is(
    code(() => decodeExactly(u64, new Uint8Array(7))),
    'ERR_WIRE_TRUNCATED',
  );
  assert.is(
    code(() => decodeExactly(u64, new Uint8Array(9))),
    'ERR_WIRE_TRAILING',
  );
  assert.is(
    code(() => encodeToBytes(u64, 1n << 64n)),
    'ERR_WIRE_VALUE',
  );
});

test.run();
