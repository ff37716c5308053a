import type { Codec } from './codec.js';

/**
 * What the request table says of one request. There is one row a request, generated from schema/vhost-user, and no
 * second list: id, payload, fds, reply and gate are looked up here and nowhere else.
 */
export interface RequestRow<Name extends string = string, Payload = unknown, Reply = unknown> {
  readonly id: number;
  /** camelCase of the schema's name, e.g. `setMemTable`. */
  readonly name: Name;
  /** e.g. `VHOST_USER_SET_MEM_TABLE`. */
  readonly specName: string;
  /** null: the request has no payload. */
  readonly payload: Codec<Payload> | null;
  readonly fds: FdRule;
  readonly reply: ReplyRule<Reply>;
  readonly gate: Gate;
}

/** How many fds a message carries and what for. */
export interface FdRule {
  /** e.g. `memory-region`, `kick`; null when the message carries none. */
  readonly role: string | null;
  readonly min: number;
  readonly max: number;
  /** The payload list (camelCase) whose length is the exact number of fds. */
  readonly countOf: string | null;
  /** Bit of the u64 payload that says "no fd", as in SET_VRING_KICK: fds are then 0, else `max`. null elsewhere. */
  readonly absentIfBit: number | null;
  /** That many fds beyond the rule are closed and forgiven. */
  readonly tolerated: number;
}

/**
 * What is sent back.
 * - `ack`: a u64, 0 for success, only when the request has NEED_REPLY and REPLY_ACK is negotiated.
 * - `payload`: always, with a payload (`codec: null` = an empty one) and at most `fds` fds.
 * `when` picks `then` over the row's own rule while a condition holds.
 */
export type ReplyRule<Reply = unknown> =
  | { readonly kind: 'ack'; readonly when?: ReplyCondition<Reply> }
  | {
      readonly kind: 'payload';
      readonly codec: Codec<Reply> | null;
      readonly fds: number;
      /** An empty payload is legal too, and says this. */
      readonly empty?: 'success' | 'error';
      /** The requester confirms the reply by sending the request once more, empty (postcopy's SET_MEM_TABLE). */
      readonly confirmed?: true;
      readonly when?: ReplyCondition<Reply>;
    };

export interface ReplyCondition<Reply = unknown> {
  /** Protocol feature mask that must be negotiated, 0n when the condition is a state. */
  readonly protocol: bigint;
  /** Named session state, e.g. `postcopy-listening`; null when the condition is a feature. */
  readonly state: string | null;
  readonly then: Exclude<ReplyRule<Reply>, { when: object }>;
}

/** When a request is legal: every bit of `protocol` and `virtio` negotiated, none of `excludes`. */
export interface Gate {
  readonly protocol: bigint;
  readonly virtio: bigint;
  /** `offered`: the virtio bits must be offered, not acknowledged (GET/SET_PROTOCOL_FEATURES). */
  readonly virtioOffered: boolean;
  readonly excludes: bigint;
}
