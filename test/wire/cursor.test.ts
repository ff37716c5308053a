import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { WireError, WireReader, WireWriter } from '../../runtime/wire/index.js';

function code(run: () => unknown): string {
  try {
    run();
  } catch (error) {
    if (error instanceof WireError) return error.code;
    throw error;
  }
  return 'none';
}

test('numbers are little-endian, one behind the other', () => {
  const bytes = new Uint8Array(29);
  const writer = new WireWriter(bytes);
  writer.u8(0x01, 'a');
  writer.u16(0x0203, 'b');
  writer.u32(0x04050607, 'c');
  writer.i32(-2, 'd');
  writer.u64(0x08090a0b0c0d0e0fn, 'e');
  writer.i64(-3n, 'f');
  writer.zeros(2, 'g');
  assert.is(writer.offset, 29);
  assert.equal([...bytes.subarray(0, 7)], [1, 3, 2, 7, 6, 5, 4]);
  assert.equal([...bytes.subarray(7, 11)], [0xfe, 0xff, 0xff, 0xff]);
  assert.equal([...bytes.subarray(11, 19)], [0x0f, 0x0e, 0x0d, 0x0c, 0x0b, 0x0a, 0x09, 0x08]);
  const reader = new WireReader(bytes);
  assert.equal(
    [reader.u8('a'), reader.u16('b'), reader.u32('c'), reader.i32('d'), reader.u64('e'), reader.i64('f')],
    [0x01, 0x0203, 0x04050607, -2, 0x08090a0b0c0d0e0fn, -3n],
  );
  reader.skip(2, 'g');
  assert.is(reader.remaining, 0);
  reader.end('all');
});

test('the ends of each range survive, one beyond does not fit', () => {
  const limits: [keyof WireWriter & ('u8' | 'u16' | 'u32' | 'i8' | 'i16' | 'i32'), number, number][] = [
    ['u8', 0, 0xff],
    ['u16', 0, 0xffff],
    ['u32', 0, 0xffff_ffff],
    ['i8', -0x80, 0x7f],
    ['i16', -0x8000, 0x7fff],
    ['i32', -0x8000_0000, 0x7fff_ffff],
  ];
  for (const [name, low, high] of limits) {
    for (const value of [low, high]) {
      const bytes = new Uint8Array(4);
      new WireWriter(bytes)[name](value, 'x');
      assert.is(new WireReader(bytes)[name]('x'), value);
    }
    for (const value of [low - 1, high + 1, 0.5, NaN, Infinity]) {
      assert.is(
        code(() => new WireWriter(new Uint8Array(8))[name](value, 'x')),
        'ERR_WIRE_VALUE',
        `${name} ${value}`,
      );
    }
  }
  const top = (1n << 64n) - 1n;
  const bytes = new Uint8Array(8);
  new WireWriter(bytes).u64(top, 'x');
  assert.is(new WireReader(bytes).u64('x'), top);
  for (const value of [-1n, top + 1n]) {
    assert.is(
      code(() => new WireWriter(bytes).u64(value, 'x')),
      'ERR_WIRE_VALUE',
    );
  }
  for (const value of [-(1n << 63n) - 1n, 1n << 63n]) {
    assert.is(
      code(() => new WireWriter(bytes).i64(value, 'x')),
      'ERR_WIRE_VALUE',
    );
  }
});

test('C26: a field that is not all there fails, names itself and takes nothing', () => {
  const sizes = { u8: 1, u16: 2, u32: 4, i32: 4, u64: 8, i64: 8 } as const;
  for (const [name, size] of Object.entries(sizes) as [keyof typeof sizes, number][]) {
    const reader = new WireReader(new Uint8Array(size));
    reader.skip(1, 'x');
    assert.throws(
      () => reader[name]('vring-state.num'),
      (error: unknown) => error instanceof WireError && /vring-state\.num: needs/.test(error.message),
    );
    assert.is(reader.offset, 1);
    assert.is(
      code(() => reader[name]('x')),
      'ERR_WIRE_TRUNCATED',
    );
  }
});

test('C26: bytes and skips beyond the end, or of a nonsense length, fail', () => {
  const reader = new WireReader(new Uint8Array(8));
  for (const length of [9, 2 ** 32, Infinity, NaN, -1, 0.5]) {
    assert.is(
      code(() => reader.bytes(length, 'x')),
      'ERR_WIRE_TRUNCATED',
      `bytes ${length}`,
    );
    assert.is(
      code(() => reader.skip(length, 'x')),
      'ERR_WIRE_TRUNCATED',
      `skip ${length}`,
    );
  }
  assert.is(reader.offset, 0);
  assert.is(reader.bytes(8, 'x').byteLength, 8);
});

test('what is read is a copy: the receive buffer may be used again', () => {
  const received = Uint8Array.of(1, 2, 3);
  const copy = new WireReader(received).bytes(3, 'x');
  received.fill(9);
  assert.equal([...copy], [1, 2, 3]);
});

test('a cursor stays inside its part of a larger buffer', () => {
  const whole = Uint8Array.of(9, 9, 1, 2, 9, 9);
  const part = whole.subarray(2, 4);
  const reader = new WireReader(part);
  assert.is(reader.u16('x'), 0x0201);
  assert.is(
    code(() => reader.u8('x')),
    'ERR_WIRE_TRUNCATED',
  );
  const writer = new WireWriter(part);
  writer.u16(0, 'x');
  assert.is(
    code(() => writer.u8(0, 'x')),
    'ERR_WIRE_LIMIT',
  );
  assert.equal([...whole], [9, 9, 0, 0, 9, 9]);
});

test('bytes after the last field are an error', () => {
  const reader = new WireReader(new Uint8Array(5));
  reader.u32('x');
  assert.is(
    code(() => reader.end('vring-state')),
    'ERR_WIRE_TRAILING',
  );
});

test('a value that does not fit is told with what would', () => {
  const writer = new WireWriter(new Uint8Array(8));
  const message = (write: () => void): string => {
    try {
      write();
    } catch (error) {
      return (error as Error).message;
    }
    return '';
  };
  assert.is(
    message(() => writer.u16(0x1_0000, 'a.b')),
    'a.b: 65536 is no whole number from 0 to 65535',
  );
  assert.is(
    message(() => writer.u64(-1n, 'a.c')),
    'a.c: -1 is no bigint from 0 to 2^64 - 1',
  );
});

test('a write that does not fit changes nothing', () => {
  const bytes = new Uint8Array(4).fill(7);
  const writer = new WireWriter(bytes);
  for (const run of [
    () => writer.u64(1n, 'x'),
    () => writer.bytes(new Uint8Array(5), 'x'),
    () => writer.zeros(5, 'x'),
    () => writer.zeros(-1, 'x'),
  ]) {
    assert.is(code(run), 'ERR_WIRE_LIMIT');
  }
  assert.is(writer.offset, 0);
  assert.equal([...bytes], [7, 7, 7, 7]);
});

test.run();
