import { PlatformError } from '../../errors.js';
import { type BlockFile, BlockOperation } from '../platform.js';
import { systemError } from './fd-table.js';
import type { FakeWindows } from './memory.js';

const errnoOf = { EIO: 5, EBADF: 9, EAGAIN: 11, EFAULT: 14, EINVAL: 22, ENOSPC: 28, EOPNOTSUPP: 95 } as const;
export type FakeErrno = keyof typeof errnoOf;

export type BlockOperationName = keyof typeof BlockOperation;

/** One operation as a test sees it. */
export interface FakeOperation {
  readonly name: BlockOperationName;
  readonly token: number;
  readonly position: number;
  readonly length: number;
}

export interface FakeImageOptions {
  readonly blockSize?: number;
  readonly canDiscard?: boolean;
  readonly canWriteZeroes?: boolean;
  /** Opening it for writing fails with EACCES. */
  readonly readOnly?: boolean;
}

/**
 * The bytes behind an image, and what decides when and how its operations end. Left alone, every operation ends inside
 * `submit`.
 */
export class FakeImage {
  readonly bytes: Uint8Array;
  readonly options: FakeImageOptions;
  /** Whether an operation ends inside `submit`; else on a later turn of the loop. */
  endsAtOnce: (operation: FakeOperation) => boolean = () => true;
  /** Which of the waiting operations ends next; the index of one. First in, first out when left alone. */
  next: (waiting: readonly FakeOperation[]) => number = () => 0;
  /** What files of the image say of others who write to it. */
  heldElsewhere: boolean | null = false;
  /** Operations that ended, in order. */
  readonly log: FakeOperation[] = [];
  readonly files = new Set<FakeBlockFile>();
  readonly #faults: { name: BlockOperationName; errno: FakeErrno; skip: number }[] = [];
  #stalled = false;

  constructor(bytes: Uint8Array, options: FakeImageOptions) {
    this.bytes = bytes;
    this.options = options;
  }

  get stalled(): boolean {
    return this.#stalled;
  }

  /** From now on nothing ends, whatever `endsAtOnce` says. */
  stall(): void {
    this.#stalled = true;
  }

  /** Lets `count` waiting operations end, even while stalled. */
  release(count: number): void {
    for (const file of this.files) file.endLater(count);
  }

  resume(): void {
    this.#stalled = false;
    for (const file of this.files) file.endLater(Infinity);
  }

  /** The next operation of that name, after `skip` others of it, ends with -errno and moves nothing. */
  failNext(name: BlockOperationName, errno: FakeErrno, skip = 0): void {
    this.#faults.push({ name, errno, skip });
  }

  fault(name: BlockOperationName): FakeErrno | null {
    const index = this.#faults.findIndex((fault) => fault.name === name);
    const fault = this.#faults[index];
    if (fault === undefined || fault.skip-- > 0) return null;
    this.#faults.splice(index, 1);
    return fault.errno;
  }
}

interface Queued extends FakeOperation {
  /** (window, offset, length) of each segment. */
  readonly segments: readonly [number, number, number][];
  /** A segment does not lie in a window; nothing is moved. */
  readonly outside: boolean;
}

const names = Object.keys(BlockOperation) as BlockOperationName[];

export class FakeBlockFile implements BlockFile {
  readonly readOnly: boolean;
  readonly blockSize: number;
  readonly canDiscard: boolean;
  readonly canWriteZeroes: boolean;
  completions = new Int32Array(128);
  readonly #image: FakeImage;
  readonly #windows: FakeWindows;
  readonly #onClosed: () => void;
  #queued: Queued[] = [];
  readonly #waiting: Queued[] = [];
  #onComplete: ((count: number) => void) | null = null;
  #scheduled = false;
  #allowed = 0;
  #closing: Promise<void> | null = null;
  #resolveClose: (() => void) | null = null;

  constructor(image: FakeImage, readOnly: boolean, windows: FakeWindows, onClosed: () => void) {
    this.#image = image;
    this.#windows = windows;
    this.#onClosed = onClosed;
    this.readOnly = readOnly;
    this.blockSize = image.options.blockSize ?? 512;
    this.canDiscard = image.options.canDiscard ?? true;
    this.canWriteZeroes = image.options.canWriteZeroes ?? true;
    image.files.add(this);
  }

  get size(): bigint {
    return BigInt(this.#image.bytes.byteLength);
  }

  get pending(): number {
    return this.#queued.length + this.#waiting.length;
  }

  queue(
    operation: number,
    token: number,
    position: number,
    length: number,
    segments: Int32Array,
    firstSegment: number,
    segmentCount: number,
  ): void {
    if (this.#closing !== null) throw new PlatformError('ERR_PLATFORM_CLOSED', 'queue: the file is closed');
    const name = names[operation];
    if (name === undefined || !Number.isSafeInteger(position) || position < 0 || (token | 0) !== token) {
      throw new PlatformError(
        'ERR_PLATFORM_ARGUMENT',
        `queue: operation ${operation}, token ${token}, position ${position}`,
      );
    }
    const rows: [number, number, number][] = [];
    for (let i = 0; i < segmentCount; i++) {
      const at = (firstSegment + i) * 4;
      const row: [number, number, number] = [segments[at]!, segments[at + 1]!, segments[at + 2]!];
      rows.push(row);
    }
    const outside = rows.some((row) => this.#windows.range(...row) === null);
    if (!outside) for (const [window] of rows) this.#windows.busy[window]!++;
    const moved = rows.reduce((sum, row) => sum + row[2], 0);
    this.#queued.push({
      name,
      token,
      position,
      length: segmentCount === 0 ? length : moved,
      segments: outside ? [] : rows,
      outside,
    });
  }

  submit(): number {
    const ended: [number, number][] = [];
    for (const operation of this.#queued.splice(0)) {
      if (operation.outside || (!this.#image.stalled && this.#image.endsAtOnce(operation)))
        ended.push([operation.token, this.#end(operation)]);
      else this.#waiting.push(operation);
    }
    if (!this.#image.stalled) this.endLater(Infinity);
    this.#settleClose();
    return this.#report(ended);
  }

  onComplete(callback: (count: number) => void): void {
    this.#onComplete = callback;
  }

  /** Ends up to `count` more waiting operations, one a turn of the loop. */
  endLater(count: number): void {
    this.#allowed = Math.min(this.#waiting.length, this.#allowed + count);
    if (this.#scheduled || this.#allowed === 0) return;
    this.#scheduled = true;
    setImmediate(() => {
      this.#scheduled = false;
      if (this.#allowed === 0) return;
      this.#allowed--;
      const [operation] = this.#waiting.splice(this.#image.next(this.#waiting), 1);
      if (operation === undefined)
        throw new RangeError('FakeImage.next gave an index outside the waiting operations');
      const count = this.#report([[operation.token, this.#end(operation)]]);
      try {
        this.#onComplete?.(count);
      } finally {
        this.endLater(0);
        this.#settleClose();
      }
    });
  }

  heldElsewhere(): boolean | null {
    return this.readOnly || this.#closing !== null ? false : this.#image.heldElsewhere;
  }

  close(): Promise<void> {
    if (this.#closing === null) {
      this.#closing = new Promise((resolve) => (this.#resolveClose = resolve));
      this.submit();
    }
    return this.#closing;
  }

  [Symbol.dispose](): void {
    void this.close();
  }

  #settleClose(): void {
    if (this.#closing === null || this.pending > 0 || this.#resolveClose === null) return;
    this.#image.files.delete(this);
    this.#onClosed();
    this.#resolveClose();
    this.#resolveClose = null;
  }

  #report(ended: [number, number][]): number {
    if (this.completions.length < ended.length * 2) this.completions = new Int32Array(ended.length * 4);
    this.completions.set(ended.flat());
    return ended.length;
  }

  /** Does the work and returns the result. */
  #end(operation: Queued): number {
    for (const [window] of operation.segments) this.#windows.busy[window]!--;
    const { token, name, position, length } = operation;
    this.#image.log.push({ name, token, position, length });
    const fault = this.#image.fault(name) ?? this.#refusal(operation);
    if (fault !== null) return -errnoOf[fault];
    const { bytes } = this.#image;
    switch (name) {
      case 'read':
        return transfer(operation, this.#windows, bytes, (file, memory) => memory.set(file));
      case 'write':
        return transfer(operation, this.#windows, bytes, (file, memory) => file.set(memory));
      case 'flush':
        return 0;
      case 'discard':
      case 'writeZeroes':
      case 'writeZeroesUnmap':
        bytes.fill(0, position, position + length);
        return 0;
    }
  }

  #refusal({ name, position, length, outside }: Queued): FakeErrno | null {
    if (outside) return 'EFAULT';
    if (name === 'read' || name === 'flush') return null;
    if (this.readOnly) return 'EBADF';
    if (position + length > this.#image.bytes.byteLength) return 'ENOSPC';
    if (name === 'discard' && !this.canDiscard) return 'EOPNOTSUPP';
    if (name.startsWith('writeZeroes') && !this.canWriteZeroes) return 'EOPNOTSUPP';
    return null;
  }
}

function transfer(
  { segments, position }: Queued,
  windows: FakeWindows,
  bytes: Uint8Array,
  move: (file: Uint8Array, memory: Uint8Array) => void,
): number {
  let at = position;
  for (const [window, offset, length] of segments) {
    const file = bytes.subarray(at, at + length);
    move(file, windows.range(window, offset, file.byteLength)!);
    at += file.byteLength;
  }
  return Math.max(0, at - position);
}

/** The images by path. */
export class FakeFiles {
  readonly #images = new Map<string, FakeImage>();

  add(path: string, content: Uint8Array | number, options: FakeImageOptions): FakeImage {
    const image = new FakeImage(typeof content === 'number' ? new Uint8Array(content) : content, options);
    this.#images.set(path, image);
    return image;
  }

  has(path: string): boolean {
    return this.#images.has(path);
  }

  get(path: string, readOnly: boolean): FakeImage {
    const image = this.#images.get(path);
    if (image === undefined) throw systemError('open', 'ENOENT', path);
    if (image.options.readOnly === true && !readOnly) throw systemError('open', 'EACCES', path);
    return image;
  }
}
