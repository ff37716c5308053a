import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { NetFeature } from '../../../generated/virtio/devices/net/features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { headerSize, readHeader } from '../../../runtime/devices/net/header.js';

const test = suite('the header of a packet');

const { version1, ringPacked } = VirtioFeature;
const { mrgRxbuf, hashReport } = NetFeature;

for (const [name, features, size] of [
  ['legacy', 0n, 10],
  ['legacy with other features', NetFeature.csum | NetFeature.hostTso4 | VirtioFeature.eventIdx, 10],
  ['mergeable buffers', mrgRxbuf, 12],
  ['version 1', version1, 12],
  ['packed 46: a packed ring without mergeable buffers', ringPacked, 12],
  ['version 1, packed and mergeable', version1 | ringPacked | mrgRxbuf, 12],
  ['hash report', version1 | hashReport, 20],
] as const) {
  test(`is ${size} bytes with: ${name}`, () => assert.is(headerSize(features), size));
}

const WORDS = Int32Array.of(0, 0x2211_8301 | 0, 0x6655_4433, 0x0000_8877);
const BYTES = [0x01, 0x83, 0x11, 0x22, 0x33, 0x44, 0x55, 0x66, 0x77, 0x88];

for (let offset = 0; offset < 8; offset++) {
  test(`is read at offset ${offset} of a window`, () => {
    const u8 = new Uint8Array(24).fill(0xee);
    const u32 = new Uint32Array(u8.buffer);
    u8.set([...BYTES, 0x99, 0xaa], offset);
    const words = new Int32Array(5);
    readHeader(u32, offset, words, 1);
    assert.equal([...words], [0, WORDS[1], WORDS[2], WORDS[3], 0], 'num-buffers is left out');
  });
}

test.run();
