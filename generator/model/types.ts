/**
 * The resolved model: what the loader hands to the rules and the emitters. Neutral, plain data, every reference resolved,
 * every default filled in. It is also what generated/model.json holds, so a name here is a public name.
 */
export interface Model {
  readonly files: readonly SchemaFile[];
}

export type SchemaFile = MessagesFile | FeaturesFile | LayoutsFile;

interface FileBase {
  /** Path below schema/, without the ending, with `/`: `vhost-user/frontend-requests`. Outputs mirror it. */
  readonly path: string;
  /** kebab-case; the prefix of what is generated where one is needed. */
  readonly name: string;
  readonly doc: string;
  readonly source: Source;
  /** Kernel headers whose macros must agree with our numbers wherever they define a `specName` of this file. */
  readonly headers: readonly string[];
}

export interface Source {
  readonly id: string;
  readonly title: string;
  readonly file: string | null;
  readonly revision: string;
}

/** What every described item carries. */
export interface Item {
  /** kebab-case. */
  readonly name: string;
  /** The specification's spelling, in full. */
  readonly specName: string;
  readonly doc: string;
  /** Section path in the source. */
  readonly ref: string | null;
  readonly since: string | null;
  readonly deprecated: { readonly since: string; readonly use: string } | null;
  readonly renamed: readonly { readonly from: string; readonly in: string }[];
  /** Where the project departs from the text and why. */
  readonly erratum: string | null;
}

// --- messages

export interface MessagesFile extends FileBase {
  readonly kind: 'messages';
  readonly direction: 'front-end-to-back-end' | 'back-end-to-front-end';
  readonly prefix: string;
  /** What the file descriptors of this direction are for. */
  readonly fdRoles: readonly FdRole[];
  readonly requests: readonly Request[];
  readonly reserved: readonly { readonly id: number; readonly why: string }[];
}

export interface FdRole {
  readonly name: string;
  readonly doc: string;
}

export interface Request extends Item {
  readonly id: number;
  /** Layout of the payload; null when there is none. */
  readonly payload: LayoutRef | null;
  readonly fds: Fds;
  readonly reply: Reply;
  readonly gate: GateMasks;
}

export interface Fds {
  readonly role: string | null;
  readonly min: number;
  readonly max: number;
  /** kebab-case name of the payload's list with one fd an element. */
  readonly countOf: string | null;
  /** Bit of the u64 payload that means "no fd". */
  readonly absentIfBit: number | null;
  readonly tolerated: number;
}

export type PlainReply =
  | { readonly kind: 'ack' }
  | {
      readonly kind: 'payload';
      readonly payload: LayoutRef | null;
      readonly fds: number;
      readonly fdRole: string | null;
      /** An empty payload is legal too, and what it means; null when it is not. */
      readonly empty: 'success' | 'error' | null;
      /** The requester confirms the reply by sending the request once more, empty (postcopy's SET_MEM_TABLE). */
      readonly confirmed: boolean;
    };

export type Reply = PlainReply & {
  readonly when: {
    readonly protocol: readonly FeatureRef[];
    readonly state: string | null;
    readonly then: PlainReply;
  } | null;
};

export interface GateMasks {
  readonly protocol: readonly FeatureRef[];
  readonly virtio: readonly FeatureRef[];
  readonly virtioOffered: boolean;
  /** Protocol features that forbid the request. */
  readonly excludes: readonly FeatureRef[];
  /** Anything else that must hold and has no bit, e.g. `device-type gpu`; documentation only. */
  readonly note: string | null;
}

/** A resolved bit: where it is declared and its mask's index. */
export interface FeatureRef {
  readonly file: string;
  readonly name: string;
  readonly bit: number;
}

/** A resolved struct or scalar: `u64` is a scalar payload. */
export type LayoutRef =
  | { readonly kind: 'scalar'; readonly type: ScalarType }
  | { readonly kind: 'struct'; readonly file: string; readonly name: string };

// --- features

export interface FeaturesFile extends FileBase {
  readonly kind: 'features';
  /** Which negotiated word the bits belong to; `device`: the device type's part of the virtio word. */
  readonly word: 'protocol' | 'virtio' | 'device';
  readonly width: number;
  /** e.g. `VHOST_USER_PROTOCOL_F_`. */
  readonly prefix: string;
  readonly bits: readonly FeatureBit[];
  readonly reserved: readonly { readonly bit: number; readonly why: string }[];
}

export interface FeatureBit extends Item {
  readonly bit: number;
  /** Bits of the same file. */
  readonly requires: readonly string[];
  /** Bits of other files, for documentation and the negotiation code. */
  readonly requiresOther: readonly FeatureRef[];
  /** False for bits that one 64-bit word cannot carry or that a socket transport cannot serve. */
  readonly negotiable: boolean;
}

// --- layouts

export interface LayoutsFile extends FileBase {
  readonly kind: 'layouts';
  readonly byteOrder: 'little' | 'native';
  readonly constants: readonly Constant[];
  readonly enums: readonly Enumeration[];
  /** The virtqueues of a device type, in the order of their indexes; empty elsewhere. */
  readonly queues: readonly QueueRole[];
  readonly structs: readonly Struct[];
}

/** One virtqueue, or a run of them, of a device type. */
export interface QueueRole extends Item {
  /** Index of the first. */
  readonly index: number;
  /** True when further queues of this role may follow (multiqueue). */
  readonly repeats: boolean;
}

export interface Constant extends Item {
  readonly value: number;
}

/** Named numbers. `bits`: members are bit indexes of a flags word. */
export interface Enumeration extends Item {
  readonly form: 'values' | 'bits';
  readonly type: ScalarType;
  /** True when a receiver must accept numbers that are not listed. */
  readonly open: boolean;
  /** Prefix of the members' specification names, e.g. `VIRTIO_BLK_T_`. */
  readonly prefix: string;
  readonly members: readonly EnumMember[];
}

export interface EnumMember extends Item {
  readonly value: number;
}

export type ScalarType = 'u8' | 'u16' | 'u32' | 'u64' | 'i8' | 'i16' | 'i32' | 'i64';

export interface Struct extends Item {
  /** `record`: typed encode and decode. `offsets`: static accessors and named offsets for hot code. `both`. */
  readonly form: 'record' | 'offsets' | 'both';
  readonly byteOrder: 'little' | 'native';
  /** Bytes when fixed; null when a field is counted. */
  readonly size: number | null;
  readonly minSize: number;
  readonly maxSize: number | null;
  readonly align: number;
  /** Run-time parameters that are not on the wire, e.g. queue-size. */
  readonly params: readonly { readonly name: string; readonly type: ScalarType }[];
  /** Size as a linear term of one parameter: bytes = base + step * param. null when fixed or counted by a field. */
  readonly sizeOf: { readonly base: number; readonly step: number; readonly param: string } | null;
  readonly writtenBy: 'driver' | 'device' | 'both';
  readonly fields: readonly Field[];
  /** The C struct that proves it, e.g. `{ header: 'linux/virtio_ring.h', struct: 'vring_desc' }`; null when none does. */
  readonly proof: {
    readonly header: string;
    readonly struct: string;
    /** `sizeof` of the C struct; smaller than ours where the header is older or the rest is a flexible array. */
    readonly size: number;
  } | null;
}

export interface Field extends Item {
  readonly type: FieldType;
  /** Offset in bytes; null behind a counted field. */
  readonly offset: number | null;
  /** Offset as a linear term of a parameter, behind a field that the parameter counts; null elsewhere. */
  readonly offsetOf: { readonly base: number; readonly step: number; readonly param: string } | null;
  /** Bytes of the whole field when fixed. */
  readonly size: number | null;
  /** Repetition; null for a single value. */
  readonly count: FieldCount | null;
  /** Constant that must stand there: encoders write it, decoders reject anything else. */
  readonly mustBe: number | null;
  /** Padding or reserved: written as zero, not checked, not part of the value. */
  readonly ignored: boolean;
  /** The enumeration that names the values or bits. */
  readonly enumeration: { readonly file: string; readonly name: string } | null;
  /** `guest-address`: read as two halves into a number, never a bigint. */
  readonly as: 'guest-address' | null;
  readonly access: 'plain' | 'acquire' | 'release';
  /** The field whose elements or bytes this one counts: computed on encode, never set by users. */
  readonly counts: string | null;
  /** Present only if these are negotiated. */
  readonly requires: readonly FeatureRef[];
  readonly requiresAny: readonly FeatureRef[];
  /** The C field's name where it differs from name with `_`. */
  readonly cName: string | null;
  /** False when the struct of `proof` lacks the field; always false without a proof and for ignored fields without a cName. */
  readonly proven: boolean;
  /** Bit ranges of the field that have names of their own; empty when it is one number. */
  readonly parts: readonly FieldPart[];
}

/** A range of bits of a field. */
export interface FieldPart {
  readonly name: string;
  readonly doc: string;
  readonly lowBit: number;
  readonly width: number;
}

export type FieldType =
  | { readonly kind: 'scalar'; readonly type: ScalarType }
  | { readonly kind: 'struct'; readonly file: string; readonly name: string }
  | { readonly kind: 'bytes' };

export type FieldCount =
  | { readonly kind: 'value'; readonly value: number }
  | { readonly kind: 'field'; readonly field: string; readonly max: number }
  | { readonly kind: 'param'; readonly param: string }
  | { readonly kind: 'rest'; readonly max: number };
