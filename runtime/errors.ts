/**
 * The error base of the project. Each layer has one class below with its own literal codes; match on `code`, since more
 * than one copy of the package may be loaded.
 */
export abstract class VhostUserError<Code extends string = string> extends Error {
  abstract override readonly name: string;
  readonly code: Code;

  constructor(code: Code, message: string, options?: { cause?: unknown }) {
    super(message, options);
    this.code = code;
  }
}

export type WireErrorCode = 'ERR_WIRE_TRUNCATED' | 'ERR_WIRE_TRAILING' | 'ERR_WIRE_VALUE' | 'ERR_WIRE_LIMIT';

/** A message's bytes do not have the form that its layout states. */
export class WireError extends VhostUserError<WireErrorCode> {
  override readonly name = 'WireError';
}

export type PlatformErrorCode =
  | 'ERR_PLATFORM_SYSTEM_CALL' // the kernel refused; `errno` says how
  | 'ERR_PLATFORM_CLOSED' // it was closed before
  | 'ERR_PLATFORM_ADDON' // the addon cannot be loaded, or does not belong to this code
  | 'ERR_PLATFORM_ARGUMENT' // a value that the call cannot take
  | 'ERR_PLATFORM_LIMIT'; // more came than the caller takes

/** The operating system, or the addon that speaks to it, refused. */
export class PlatformError extends VhostUserError<PlatformErrorCode> {
  override readonly name = 'PlatformError';
  /** The system call, e.g. `mmap`. */
  readonly syscall: string | undefined;
  /** The symbolic errno, e.g. `ENOMEM`. */
  readonly errno: string | undefined;

  constructor(
    code: PlatformErrorCode,
    message: string,
    options?: { cause?: unknown; syscall?: string; errno?: string },
  ) {
    super(code, message, options);
    this.syscall = options?.syscall;
    this.errno = options?.errno;
  }
}

export type GuestMemoryErrorCode =
  | 'ERR_GUEST_MEMORY_REGION' // a region is empty, wraps, overlaps or is longer than its file
  | 'ERR_GUEST_MEMORY_LIMIT' // more regions or slots than allowed
  | 'ERR_GUEST_MEMORY_LOG' // a dirty log is empty, wraps or is longer than its file
  | 'ERR_GUEST_MEMORY_UNMAPPED' // an address range lies outside every region
  | 'ERR_GUEST_MEMORY_LOST'; // the front-end truncated the file below a mapping

/** Guest memory cannot be mapped, or an address does not lie in it. */
export class GuestMemoryError extends VhostUserError<GuestMemoryErrorCode> {
  override readonly name = 'GuestMemoryError';
}

export type VirtqueueErrorCode =
  | 'ERR_VIRTQ_CONFIGURATION' // size, addresses, alignment or saved state are not valid
  | 'ERR_VIRTQ_AVAILABLE_INDEX' // the driver claims more chains than the ring holds
  | 'ERR_VIRTQ_HEAD' // a head index or buffer id outside the ring, or one in flight twice
  | 'ERR_VIRTQ_CHAIN' // a loop, a bad next, a chain longer than allowed
  | 'ERR_VIRTQ_ORDER' // a readable descriptor behind a writable one
  | 'ERR_VIRTQ_INDIRECT' // a bad indirect table
  | 'ERR_VIRTQ_ADDRESS' // a buffer outside guest memory
  | 'ERR_VIRTQ_INFLIGHT' // the in-flight region contradicts itself or its ring
  | 'ERR_VIRTQ_MEMORY_LOST' // ring memory vanished while the ring ran
  | 'ERR_VIRTQ_LOG' // a page was written that the dirty log does not reach
  | 'ERR_VIRTQ_DEVICE' // the device failed while it served the queue; the cause says how
  | 'ERR_VIRTQ_HANDLE' // the device completed a chain that is not in flight
  | 'ERR_VIRTQ_USED'; // more bytes reported as written than are writable; driver side: also a chain never issued, or returned twice

/** A ring is broken; it stays latched until it is stopped and started again. */
export class VirtqueueError extends VhostUserError<VirtqueueErrorCode> {
  override readonly name = 'VirtqueueError';
  /** Index of the queue in its device, -1 when not known. */
  readonly queue: number;

  constructor(code: VirtqueueErrorCode, queue: number, message: string, options?: { cause?: unknown }) {
    super(code, queue < 0 ? message : `queue ${queue}: ${message}`, options);
    this.queue = queue;
  }
}

export type VhostErrorCode =
  | 'ERR_VHOST_HEADER' // version, flags or size of a message header
  | 'ERR_VHOST_REQUEST' // an id nobody knows
  | 'ERR_VHOST_PAYLOAD' // the payload does not decode, or a field has a value that is not allowed
  | 'ERR_VHOST_FDS' // too few or too many file descriptors, or one of the wrong kind
  | 'ERR_VHOST_GATE' // the request needs a feature that was not negotiated
  | 'ERR_VHOST_STATE' // the request is not legal in this state
  | 'ERR_VHOST_REFUSED' // legal, but this device does not serve it
  | 'ERR_VHOST_REPLY' // the peer's reply is not what was asked for
  | 'ERR_VHOST_DISCONNECTED'; // the peer went away in the middle of something

/** The vhost-user conversation failed. */
export class VhostError extends VhostUserError<VhostErrorCode> {
  override readonly name = 'VhostError';
  /** Specification name of the request being handled, e.g. `VHOST_USER_SET_MEM_TABLE`. */
  readonly request: string | undefined;

  constructor(code: VhostErrorCode, message: string, options?: { cause?: unknown; request?: string }) {
    super(code, options?.request === undefined ? message : `${options.request}: ${message}`, options);
    this.request = options?.request;
  }
}

export type DeviceErrorCode =
  | 'ERR_DEVICE_REQUEST' // a chain does not hold a request of this device
  | 'ERR_DEVICE_FAILED' // the device threw while it handled a chain
  | 'ERR_DEVICE_CONFIGURATION'; // the device was set up with options that contradict each other

/** A device cannot do what it was asked. */
export class DeviceError extends VhostUserError<DeviceErrorCode> {
  override readonly name = 'DeviceError';
}

export type OptionErrorCode =
  'ERR_OPTION_UNKNOWN' | 'ERR_OPTION_VALUE' | 'ERR_OPTION_MISSING' | 'ERR_OPTION_CONFLICT';

/** A program was started with arguments that it cannot follow. */
export class OptionError extends VhostUserError<OptionErrorCode> {
  override readonly name = 'OptionError';
}
