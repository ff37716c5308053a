import { createHash } from 'node:crypto';
import { readFileSync, statSync, writeFileSync } from 'node:fs';
import type { Guest } from './guest.js';
import { Random } from './random.js';

const SECTOR = 512;

/** A disk image with a model of what it must hold, kept in step with what the guest is told to do. */
export class ModelDisk {
  readonly path: string;
  readonly model: Buffer;
  readonly #random: Random;

  constructor(path: string, size: number, seed: number) {
    this.path = path;
    this.#random = new Random(seed);
    this.model = this.#random.bytes(size);
    writeFileSync(path, this.model);
  }

  get checksum(): string {
    return md5(this.model);
  }

  checksumOf(start: number, length: number): string {
    return md5(this.model.subarray(start, start + length));
  }

  /** Null when the file holds exactly the model, else where and how it differs. */
  difference(): string | null {
    const file = readFileSync(this.path);
    if (file.equals(this.model)) return null;
    if (file.byteLength !== this.model.byteLength)
      return `${file.byteLength} bytes, not ${this.model.byteLength}`;
    const at = file.findIndex((byte, i) => byte !== this.model[i]);
    const show = (bytes: Buffer): string => bytes.subarray(at, at + 16).toString('hex');
    return `sector ${Math.floor(at / SECTOR)}, byte ${at}: ${show(file)} in the file, ${show(this.model)} expected`;
  }

  /** Bytes that the image takes up in its file system. */
  get allocated(): number {
    return statSync(this.path).blocks * 512;
  }

  /**
   * Has the guest copy pieces of random size from anywhere to anywhere on the disk, through its page cache and past it, and
   * then fsync. Every byte that it writes it has read before, so the model needs nothing but the positions.
   */
  async copyAround(guest: Guest, count: number, device = '/dev/vda'): Promise<void> {
    const sectors = this.model.byteLength / SECTOR;
    const script = ['set -e'];
    for (let i = 0; i < count; i++) {
      const length = 1 + this.#random.below(i % 5 === 0 ? 512 : 17);
      const from = this.#random.below(sectors - length);
      const to = this.#random.below(sectors - length);
      const direct = i % 2 === 0 ? 'iflag=direct oflag=direct ' : '';
      const blocks = `bs=${length * SECTOR} count=1`;
      script.push(
        `dd if=${device} of=/run/piece ${blocks} iflag=skip_bytes${direct === '' ? '' : ',direct'} skip=${from * SECTOR}`,
        `dd if=/run/piece of=${device} ${blocks} oflag=seek_bytes${direct === '' ? '' : ',direct'} seek=${to * SECTOR} conv=notrunc`,
      );
      this.model.copyWithin(to * SECTOR, from * SECTOR, (from + length) * SECTOR);
    }
    script.push(fsync(device));
    await guest.read(script.join('\n'));
  }

  /** util-linux's blkdiscard (the shell would take busybox's, which knows no zeroes); on a file it leaves a hole. */
  async discard(guest: Guest, start: number, length: number): Promise<void> {
    await guest.read(`/usr/sbin/blkdiscard -o ${start} -l ${length} /dev/vda`);
    this.model.fill(0, start, start + length);
  }

  async writeZeroes(guest: Guest, start: number, length: number): Promise<void> {
    await guest.read(`/usr/sbin/blkdiscard -z -o ${start} -l ${length} /dev/vda`);
    this.model.fill(0, start, start + length);
  }
}

/** A script line that flushes what the guest has written to the device. */
export function fsync(device = '/dev/vda'): string {
  return `dd if=/dev/null of=${device} count=0 conv=notrunc,fsync`;
}

/** A script that gives the checksum of a whole device, read past the guest's page cache. */
export function checksumScript(device = '/dev/vda'): string {
  return `dd if=${device} bs=256k iflag=direct 2> /run/dd | md5sum | cut -d ' ' -f 1`;
}

function md5(bytes: Buffer): string {
  return createHash('md5').update(bytes).digest('hex');
}
