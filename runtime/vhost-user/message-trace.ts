import { channel } from 'node:diagnostics_channel';

/** What subscribers of the channel `vhost-user:message` get for every message, before it is handled or sent. */
export interface MessageTrace {
  /** Which connection of the process; counts up. */
  readonly connection: number;
  /** The socket: the front-end's main one, or the one on which a back-end asks. */
  readonly socket: 'main' | 'backend-request';
  readonly direction: 'in' | 'out';
  readonly request: number;
  /** Header flags: bits 0-1 version, 2 REPLY, 3 NEED_REPLY. */
  readonly flags: number;
  /** The payload's bytes; do not keep or change them. Decode them by the request's row in the generated tables. */
  readonly payload: Uint8Array;
  /** File descriptors that travel with the message. */
  readonly fds: number;
}

/** `vhost-user:message`; check `hasSubscribers` before making a MessageTrace. */
export const messageChannel = channel('vhost-user:message');

let connections = 0;

/** A number for a new connection's traces. */
export function nextConnection(): number {
  return ++connections;
}
