import { PlatformError } from '../../errors.js';
import type { FdKind, Mapping, Userfault, UserfaultServer } from '../platform.js';
import { Description, type FdTable, systemError } from './fd-table.js';
import type { FakeMapping, PageSource } from './memory.js';

const PAGE = 0x1000n;

/** A userfaultfd: the pages that are missing, those asked for, and who hears of it. Nobody waits in here. */
export class PageSupply extends Description implements PageSource {
  readonly kind: FdKind = 'userfaultfd';
  readonly mappings = new Set<FakeMapping>();
  readonly #there = new Set<bigint>();
  readonly #asked: bigint[] = [];
  #onFault: ((address: bigint) => void) | null = null;

  set onFault(callback: ((address: bigint) => void) | null) {
    this.#onFault = callback;
    if (callback !== null) setImmediate(() => this.#deliver());
  }

  access(address: bigint): boolean {
    const page = address & ~(PAGE - 1n);
    if (this.#there.has(page)) return true;
    this.#asked.push(page);
    setImmediate(() => this.#deliver());
    return false;
  }

  forget(mapping: FakeMapping): void {
    this.mappings.delete(mapping);
  }

  put(address: bigint, bytes: Uint8Array): boolean {
    if ((address | BigInt(bytes.byteLength)) % PAGE !== 0n)
      throw systemError('ioctl(UFFDIO_COPY)', 'EINVAL', 'no whole pages');
    const mapping = [...this.mappings].find(
      (each) => address >= each.address && address + BigInt(bytes.byteLength) <= each.address + each.length,
    );
    if (mapping === undefined) throw systemError('ioctl(UFFDIO_COPY)', 'ENOENT', 'no registered memory');
    for (let done = 0n; done < BigInt(bytes.byteLength); done += PAGE) {
      if (this.#there.has(address + done)) return false;
      this.#there.add(address + done);
      const from = Number(done);
      mapping.put(Number(address - mapping.address) + from, bytes.subarray(from, from + Number(PAGE)));
    }
    return true;
  }

  /** Ends every registration. */
  end(): FakeMapping[] {
    const mappings = [...this.mappings];
    for (const mapping of mappings) mapping.pages = null;
    this.mappings.clear();
    return mappings;
  }

  #deliver(): void {
    while (this.#onFault !== null && this.#asked.length > 0) this.#onFault(this.#asked.shift()!);
  }
}

export class FakeUserfault implements Userfault {
  readonly fd: number;
  readonly #supply: PageSupply;
  #open = true;

  constructor(supply: PageSupply, fd: number) {
    this.#supply = supply;
    this.fd = fd;
  }

  register(mapping: Mapping): void {
    if (!this.#open) throw new PlatformError('ERR_PLATFORM_CLOSED', 'the userfaultfd is closed');
    const fake = mapping as FakeMapping;
    fake.pages = this.#supply;
    this.#supply.mappings.add(fake);
  }

  release(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#supply.end();
  }

  withdraw(): void {
    if (!this.#open) return;
    this.#open = false;
    for (const mapping of this.#supply.end()) mapping.withdraw();
  }

  [Symbol.dispose](): void {
    this.withdraw();
  }
}

export class FakeUserfaultServer implements UserfaultServer {
  readonly #fds: FdTable;
  readonly #fd: number;
  readonly #supply: PageSupply;
  #open = true;

  constructor(fds: FdTable, fd: number, supply: PageSupply) {
    this.#fds = fds;
    this.#fd = fd;
    this.#supply = supply;
  }

  onFault(callback: ((address: bigint) => void) | null): void {
    if (this.#open) this.#supply.onFault = callback;
  }

  copy(address: bigint, bytes: Uint8Array): boolean {
    return this.#supply.put(address, bytes);
  }

  wake(): void {
    // Nobody waits in here.
  }

  close(): void {
    if (!this.#open) return;
    this.#open = false;
    this.#supply.onFault = null;
    this.#fds.close(this.#fd);
  }

  [Symbol.dispose](): void {
    this.close();
  }
}
