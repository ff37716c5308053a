import { strict as assert } from 'node:assert';
import type { DriverQueue, TransferOptions } from '../../runtime/drivers/driver-queue.js';

/** Opcodes of linux/fuse.h. */
const Op = { lookup: 1, open: 14, read: 15, init: 26 } as const;

const IN_HEADER = 40;
const OUT_HEADER = 16;
/** The first inode. */
const ROOT = 1n;

/** What came back for one request; `error` is 0 or a negative errno. */
export interface FuseAnswer {
  readonly error: number;
  readonly body: DataView;
}

/**
 * As much of FUSE as it takes to read a file through a request queue of a virtio-fs device (linux/fuse.h, virtio 1.4, 5.11).
 *
 *   in    u32 length, opcode | u64 unique, inode | u32 uid, gid, pid, padding | body        (readable)
 *   out   u32 length | i32 error | u64 unique | body                                        (writable)
 */
export class FuseClient {
  readonly queue: DriverQueue;
  #unique = 1n;

  constructor(queue: DriverQueue) {
    this.queue = queue;
  }

  /** FUSE_INIT, which has to come first. Resolves with the device's version. */
  async initialise(options?: TransferOptions): Promise<readonly [number, number]> {
    const [major, minor, readAhead] = [7, 31, 0x2_0000];
    const { error, body } = await this.request(
      Op.init,
      0n,
      words(major, minor, readAhead, 0, ...Array<number>(12).fill(0)),
      64,
      options,
    );
    assert.equal(error, 0);
    return [body.getUint32(0, true), body.getUint32(4, true)];
  }

  /** Inode and size in bytes of a file in the root folder; null when there is none of that name. */
  async lookUp(name: string): Promise<{ readonly inode: bigint; readonly size: bigint } | null> {
    const { error, body } = await this.request(Op.lookup, ROOT, Buffer.from(`${name}\0`), 128);
    if (error === -2) return null;
    assert.equal(error, 0);
    return { inode: body.getBigUint64(0, true), size: body.getBigUint64(48, true) };
  }

  /** Opens a file for reading; its handle. */
  async open(inode: bigint): Promise<bigint> {
    const { error, body } = await this.request(Op.open, inode, words(0, 0), 16);
    assert.equal(error, 0);
    return body.getBigUint64(0, true);
  }

  async read(
    inode: bigint,
    handle: bigint,
    position: number,
    length: number,
    options?: TransferOptions,
  ): Promise<Uint8Array> {
    const payload = new Uint8Array(40);
    const view = new DataView(payload.buffer);
    view.setBigUint64(0, handle, true);
    view.setBigUint64(8, BigInt(position), true);
    view.setUint32(16, length, true);
    const { error, body } = await this.request(Op.read, inode, payload, length, options);
    assert.equal(error, 0);
    return new Uint8Array(body.buffer, body.byteOffset, body.byteLength);
  }

  /** One request; the answer's header is checked against what was asked and what the device says it wrote. */
  async request(
    opcode: number,
    inode: bigint,
    payload: Uint8Array,
    room: number,
    options?: TransferOptions,
  ): Promise<FuseAnswer> {
    const header = new Uint8Array(IN_HEADER);
    const view = new DataView(header.buffer);
    const unique = this.#unique++;
    view.setUint32(0, IN_HEADER + payload.byteLength, true);
    view.setUint32(4, opcode, true);
    view.setBigUint64(8, unique, true);
    view.setBigUint64(16, inode, true);
    const out = payload.byteLength === 0 ? [header] : [header, payload];
    const { bytes, written } = await this.queue.transfer(out, [OUT_HEADER, room], options);
    const answer = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    assert.equal(answer.getUint32(0, true), written, 'the length in the answer is the used length');
    assert.equal(answer.getBigUint64(8, true), unique, 'the answer is to this request');
    return {
      error: answer.getInt32(4, true),
      body: new DataView(bytes.buffer, bytes.byteOffset + OUT_HEADER, written - OUT_HEADER),
    };
  }
}

function words(...values: number[]): Uint8Array {
  return new Uint8Array(Uint32Array.from(values).buffer);
}
