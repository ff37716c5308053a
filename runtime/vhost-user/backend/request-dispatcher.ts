import {
  GuestMemoryError,
  PlatformError,
  VhostError,
  VhostUserError,
  VirtqueueError,
  WireError,
} from '../../errors.js';
import { decodeExactly, encodeToBytes, u64, type RequestRow } from '../../wire/index.js';
import { frontendRequestById, frontendRequests } from '../../../generated/vhost-user/frontend-requests.js';
import { MemoryRegion, MemoryTable } from '../../../generated/vhost-user/payloads.js';
import { HeaderFlag } from '../../../generated/vhost-user/header.js';
import type { FdBundle, OwnedFd } from '../fd-bundle.js';
import { expectedFds, replyRuleOf } from '../message-rules.js';
import type { MessageStream, ReceivedMessage } from '../message-stream.js';
import type { NegotiatedFeatures } from '../negotiated-features.js';

/** One handler of the map, with the types of its row taken away; the map itself is checked against the request table. */
export type ErasedHandler = (payload: unknown, fds: FdBundle) => unknown;

export interface DispatcherOptions {
  readonly features: NegotiatedFeatures;
  readonly messages: MessageStream;
  readonly handler: (row: RequestRow) => ErasedHandler;
  /** A request was refused and the conversation goes on. */
  readonly onRefused: (error: VhostUserError) => void;
  /** The conversation cannot go on. */
  readonly onFatal: (error: VhostUserError) => void;
}

/** Bytes of a memory table before its regions. */
const MEMORY_TABLE_HEADER = MemoryTable.minSize;
/** An acknowledgement that says no. */
const FAILURE = 1n;

/** The message itself is not what its row says, as opposed to one that is refused. */
class MalformedMessage {
  readonly error: VhostError;

  constructor(error: VhostError) {
    this.error = error;
  }
}

/**
 * The way of one request: row, gate, fds, payload, handler, answer. Checked here, in this order:
 *
 * - the id has a row;
 * - the row's gate is open;
 * - as many fds as the row says (what is tolerated beyond that is closed);
 * - the payload has exactly the row's layout.
 *
 * What goes wrong has two outcomes. A request that is understood and refused (unknown id, gate, state, value, or the
 * device said no) is answered by a non-zero acknowledgement when the front-end asked for one, and the conversation goes
 * on; without that the front-end would take it as done, so the conversation ends. A malformed one ends it in any case,
 * after the same answer: two sides that disagree about a layout cannot go on.
 */
export class RequestDispatcher {
  readonly #options: DispatcherOptions;

  constructor(options: DispatcherOptions) {
    this.#options = options;
  }

  /** Handles one message and answers it. A handler that takes its time holds back the messages behind it. */
  handle(message: ReceivedMessage): void {
    // Asked before as well as after: the message may be the one that negotiates REPLY_ACK.
    const ackDue = this.#ackDue(message);
    const row = frontendRequestById.get(message.request);
    try {
      const outcome = this.#run(row, message);
      if (outcome instanceof Promise) this.#await(outcome, row!, message, ackDue);
      else this.#finish(row!, message, ackDue, outcome);
    } catch (error) {
      this.#fail(row, message, ackDue, error);
    }
  }

  #run(row: RequestRow | undefined, message: ReceivedMessage): unknown {
    if (row === undefined)
      throw new VhostError('ERR_VHOST_REQUEST', `request ${message.request} is not known`);
    const refusal = this.#options.features.refusal(row.gate);
    if (refusal !== null) throw new VhostError('ERR_VHOST_GATE', refusal, { request: row.specName });
    if (isPostcopyGoOn(row, message)) return undefined;
    const rule = replyRuleOf(row, this.#options.features);
    const mayBeEmpty = rule.kind === 'payload' && rule.confirmed === true;
    const payload = decodePayload(row, fitted(row, mayBeEmpty ? orZero(message.payload) : message.payload));
    checkFds(row, payload, message.fds.count);
    return this.#options.handler(row)(payload, message.fds);
  }

  #await(outcome: Promise<unknown>, row: RequestRow, message: ReceivedMessage, ackDue: boolean): void {
    this.#options.messages.pause();
    outcome
      .then(
        (reply) => this.#finish(row, message, ackDue, reply),
        (error: unknown) => this.#fail(row, message, ackDue, error),
      )
      .finally(() => this.#options.messages.resume());
  }

  #finish(row: RequestRow, message: ReceivedMessage, ackDue: boolean, reply: unknown): void {
    const rule = replyRuleOf(row, this.#options.features);
    // What only confirms the reply before it has none of its own.
    const confirms = rule.kind === 'payload' && rule.confirmed === true && reply === undefined;
    if (rule.kind === 'payload' && !confirms) {
      // A handler that gives nothing answers with an empty payload: that is how GET_CONFIG says that it cannot.
      const payload = rule.codec === null || reply === undefined ? null : encodeToBytes(rule.codec, reply);
      this.#send(row.id, payload, message.fds.takeAttached());
    } else if (ackDue || this.#ackDue(message)) {
      this.#send(row.id, encodeToBytes(u64, 0n));
    }
    message.fds.close();
  }

  #fail(row: RequestRow | undefined, message: ReceivedMessage, ackDue: boolean, thrown: unknown): void {
    message.fds.close();
    const malformed = thrown instanceof MalformedMessage;
    const error = malformed ? thrown.error : named(row, thrown);
    // GET_CONFIG says that it cannot by an empty reply; everything else by an acknowledgement, if one was asked for.
    const rule = row === undefined ? null : replyRuleOf(row, this.#options.features);
    const saysEmpty = rule?.kind === 'payload' && rule.empty === 'error';
    const due = saysEmpty || ackDue || this.#ackDue(message);
    if (due) this.#send(message.request, saysEmpty ? null : encodeToBytes(u64, FAILURE));
    // Anything but our own errors is a defect of this program: the state it left behind is not to be trusted.
    if (due && !malformed && thrown instanceof VhostUserError) this.#options.onRefused(error);
    else this.#options.onFatal(error);
  }

  #ackDue(message: ReceivedMessage): boolean {
    return (message.flags & HeaderFlag.needReply) !== 0 && this.#options.features.replyAck;
  }

  /** Replies have exactly version and REPLY in their flags; QEMU takes no others. */
  #send(request: number, payload: Uint8Array | null, fds: readonly OwnedFd[] = []): void {
    this.#options.messages.send(request, HeaderFlag.reply, payload ?? new Uint8Array(0), fds);
  }
}

/** A confirmation is empty by the text, and a u64 of 0 by all who send one: a table of nothing. */
function orZero(payload: Uint8Array): Uint8Array {
  return payload.byteLength === 0 ? new Uint8Array(8) : payload;
}

/**
 * User mode Linux sends its memory table with room for two regions whether there is a second one or not: whole regions of
 * zeros behind the last one are nothing.
 */
function fitted(row: RequestRow, payload: Uint8Array): Uint8Array {
  if (row.id !== frontendRequests.setMemTable.id || payload.byteLength <= MEMORY_TABLE_HEADER) return payload;
  const count = new DataView(payload.buffer, payload.byteOffset, 4).getUint32(0, true);
  const size = MEMORY_TABLE_HEADER + count * MemoryRegion.minSize;
  const rest = payload.byteLength - size;
  if (rest <= 0 || rest % MemoryRegion.minSize !== 0 || payload.byteLength > MemoryTable.maxSize)
    return payload;
  return payload.subarray(size).every((byte) => byte === 0) ? payload.subarray(0, size) : payload;
}

function decodePayload(row: RequestRow, payload: Uint8Array): unknown {
  if (row.payload === null) {
    if (payload.byteLength === 0) return undefined;
    throw malformed('ERR_VHOST_PAYLOAD', row, `expected no payload, got ${payload.byteLength} bytes`);
  }
  try {
    return decodeExactly(row.payload, payload);
  } catch (cause) {
    if (!(cause instanceof WireError)) throw cause;
    throw malformed(
      'ERR_VHOST_PAYLOAD',
      row,
      `payload of ${payload.byteLength} bytes: ${cause.message}`,
      cause,
    );
  }
}

function checkFds(row: RequestRow, payload: unknown, count: number): void {
  const { min, max } = expectedFds(row.fds, payload);
  if (count >= min && count <= max + row.fds.tolerated) return;
  const expected = min === max ? String(min) : `${min} to ${max}`;
  throw malformed('ERR_VHOST_FDS', row, `expected ${expected} file descriptors, got ${count}`);
}

/**
 * QEMU ends postcopy on a back-end with memory slots by an ADD_MEM_REG of one u64 0 without an fd, which only means "go
 * on". It asks for nothing, whatever was negotiated.
 */
function isPostcopyGoOn(row: RequestRow, message: ReceivedMessage): boolean {
  return (
    row.id === frontendRequests.addMemReg.id &&
    message.payload.byteLength === 8 &&
    message.fds.count === 0 &&
    message.payload.every((byte) => byte === 0)
  );
}

function malformed(
  code: 'ERR_VHOST_PAYLOAD' | 'ERR_VHOST_FDS',
  row: RequestRow,
  message: string,
  cause?: unknown,
): MalformedMessage {
  return new MalformedMessage(new VhostError(code, message, { request: row.specName, cause }));
}

/** The error with the request's name in it. */
function named(row: RequestRow | undefined, thrown: unknown): VhostError {
  const options = { cause: thrown, ...(row === undefined ? {} : { request: row.specName }) };
  if (thrown instanceof VhostError) {
    return thrown.request !== undefined || row === undefined
      ? thrown
      : new VhostError(thrown.code, thrown.message, { request: row.specName, cause: thrown.cause });
  }
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  if (thrown instanceof GuestMemoryError || thrown instanceof WireError || thrown instanceof VirtqueueError) {
    return new VhostError('ERR_VHOST_PAYLOAD', message, options);
  }
  if (thrown instanceof PlatformError) return new VhostError('ERR_VHOST_REFUSED', message, options);
  return new VhostError('ERR_VHOST_REFUSED', `failed unexpectedly: ${message}`, options);
}
