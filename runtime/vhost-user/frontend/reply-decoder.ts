import { VhostError, WireError } from '../../errors.js';
import { decodeExactly, type ReplyRule, type RequestRow, u64 } from '../../wire/index.js';
import { HeaderFlag, PROTOCOL_VERSION } from '../../../generated/vhost-user/header.js';
import type { ReceivedMessage } from '../message-stream.js';

/** A reply has these header flags and no others (QEMU's front-end takes nothing else either). */
export const REPLY_FLAGS = PROTOCOL_VERSION | HeaderFlag.reply;

/** The reply is not what was asked for: the two sides have lost each other, and the conversation cannot go on. */
export class WrongReply extends VhostError {}

/**
 * Reads the reply to `row`. Throws WrongReply for one that is none to it, and VhostError (ERR_VHOST_REFUSED) when the
 * back-end answered that it did not do it.
 */
export function decodeReply(row: RequestRow, rule: ReplyRule, message: ReceivedMessage): unknown {
  const { specName: request } = row;
  const wrong = (text: string, cause?: unknown): WrongReply =>
    new WrongReply('ERR_VHOST_REPLY', text, { request, cause });
  if (message.request !== row.id) throw wrong(`the reply is one to request ${message.request}`);
  if (message.flags !== REPLY_FLAGS) {
    throw wrong(
      `expected a reply with flags 0x${REPLY_FLAGS.toString(16)}, got 0x${message.flags.toString(16)}`,
    );
  }
  const allowed = rule.kind === 'payload' ? rule.fds : 0;
  if (message.fds.count > allowed) {
    throw wrong(`${message.fds.count} file descriptors came with the reply, ${allowed} may`);
  }
  const { payload } = message;
  const { byteLength } = payload;
  const refused = (text: string): VhostError => new VhostError('ERR_VHOST_REFUSED', text, { request });
  if (rule.kind === 'payload') {
    if (byteLength === 0 && rule.empty === 'success') return undefined;
    if (byteLength === 0 && rule.empty === 'error') {
      throw refused('the back-end answered with an empty payload');
    }
    if (rule.codec === null) {
      // libvhost-user leaves the payload of GET_SHARED_OBJECT in its reply.
      if (byteLength === 0 || byteLength === row.payload?.maxSize) return undefined;
      throw wrong(`the reply has ${byteLength} payload bytes, none were expected`);
    }
  }
  const codec = rule.kind === 'payload' ? rule.codec! : u64;
  let value: unknown;
  try {
    value = decodeExactly(codec, payload);
  } catch (cause) {
    if (!(cause instanceof WireError)) throw cause;
    throw wrong(`the reply's ${byteLength} payload bytes are no ${codec.layout}: ${cause.message}`, cause);
  }
  if (rule.kind === 'payload') return value;
  if (value !== 0n) throw refused(`the back-end answered ${String(value)}`);
  return undefined;
}
