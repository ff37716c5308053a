import { DeviceError, VhostError } from '../../errors.js';
import type { FrontendServices, SharedMemoryRange } from '../../device/frontend-services.js';
import type { SharedMemoryDeclaration, VirtioDevice } from '../../device/virtio-device.js';
import {
  SHMEM_REGION_SLOTS,
  ShmemMapFlag,
  VringFdFlag,
  type ShmemConfig,
} from '../../../generated/vhost-user/payloads.js';
import type { OutgoingRequests } from './outgoing-requests.js';

/** Ranges are whole pages of this size at least. */
const PAGE = 4096n;
const NO_FD = BigInt(VringFdFlag.noFd);

/** What a device asks of the front-end, as requests of the back-end. */
export function frontendServices(device: VirtioDevice, outgoing: OutgoingRequests): FrontendServices {
  return {
    async offerHostNotifier(index, { fd, offset, size }) {
      checkQueue(device, index);
      checkPages('a host notifier', { offset, size });
      if (size === 0n) throw wrong('a host notifier has at least a page');
      const area = { vring: BigInt(index), size, offset };
      await outgoing.request('backendVringHostNotifierMsg', area, { fds: [fd] });
    },

    async withdrawHostNotifier(index) {
      checkQueue(device, index);
      const area = { vring: BigInt(index) | NO_FD, size: 0n, offset: 0n };
      await outgoing.request('backendVringHostNotifierMsg', area);
    },

    async addSharedObject(uuid) {
      await outgoing.request('backendSharedObjectAdd', { uuid });
    },

    async removeSharedObject(uuid) {
      await outgoing.request('backendSharedObjectRemove', { uuid });
    },

    async lookUpSharedObject(uuid) {
      const replyFds: number[] = [];
      try {
        await outgoing.request('backendSharedObjectLookup', { uuid }, { replyFds });
      } catch (error) {
        if (error instanceof VhostError && error.code === 'ERR_VHOST_REFUSED') return null;
        throw error;
      }
      return replyFds[0] ?? null;
    },

    async mapSharedMemory(range, { fd, offset: fdOffset, writable }) {
      checkRange(device, range);
      checkPages('a file range', { fdOffset });
      const flags = writable ? BigInt(ShmemMapFlag.readWrite) : 0n;
      await outgoing.request('backendShmemMap', payloadOf(range, fdOffset, flags), { fds: [fd] });
    },

    async unmapSharedMemory(range) {
      checkRange(device, range);
      await outgoing.request('backendShmemUnmap', payloadOf(range, 0n, 0n));
    },
  };
}

/** GET_SHMEM_CONFIG: sizes by id, and how many of them are not zero. */
export function shmemConfig(declared: readonly SharedMemoryDeclaration[]): ShmemConfig {
  const sizes = Array<bigint>(SHMEM_REGION_SLOTS).fill(0n);
  for (const { id, size } of declared) sizes[id] = size;
  return { count: declared.length, sizes };
}

/** Throws DeviceError for a declaration that cannot be told. */
export function checkDeclaredMemory({ sharedMemory = [] }: VirtioDevice): void {
  const ids = new Set<number>();
  for (const { id, size } of sharedMemory) {
    const fault =
      !Number.isInteger(id) || id < 0 || id >= SHMEM_REGION_SLOTS
        ? `has an id below ${SHMEM_REGION_SLOTS}`
        : ids.has(id)
          ? 'is declared once'
          : size <= 0n || size % PAGE !== 0n || size >= 1n << 63n
            ? `has whole pages of ${PAGE} bytes, not ${size} bytes`
            : null;
    if (fault !== null) {
      throw new DeviceError('ERR_DEVICE_CONFIGURATION', `shared memory region ${id}: a region ${fault}`);
    }
    ids.add(id);
  }
}

function payloadOf({ id, offset, length }: SharedMemoryRange, fdOffset: bigint, flags: bigint) {
  return { shmid: id, fdOffset, shmOffset: offset, length, flags };
}

function checkQueue(device: VirtioDevice, index: number): void {
  if (Number.isInteger(index) && index >= 0 && index < Math.min(device.queueCount, 256)) return;
  throw wrong(`the device has ${device.queueCount} queues, and none ${index}`);
}

function checkRange({ sharedMemory = [] }: VirtioDevice, { id, offset, length }: SharedMemoryRange): void {
  const region = sharedMemory.find((each) => each.id === id);
  if (region === undefined) throw wrong(`the device has declared no shared memory region ${id}`);
  checkPages('a range of shared memory', { offset, length });
  if (length > 0n && offset + length <= region.size) return;
  throw wrong(
    `${length} bytes at ${offset} do not lie in shared memory region ${id} of ${region.size} bytes`,
  );
}

function checkPages(what: string, values: Record<string, bigint>): void {
  for (const [name, value] of Object.entries(values)) {
    if (value >= 0n && value % PAGE === 0n) continue;
    throw wrong(`${what} lies in whole pages of ${PAGE} bytes, its ${name} is ${value}`);
  }
}

function wrong(message: string): DeviceError {
  return new DeviceError('ERR_DEVICE_FAILED', message);
}
