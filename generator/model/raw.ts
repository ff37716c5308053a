/**
 * The YAML documents as they are written, after their shape was checked against schema/meta. Keys are the language's own.
 */
export type RawFile = RawMessages | RawFeatures | RawLayouts;

interface RawFileBase {
  name: string;
  source: { id: string; title: string; file?: string; revision: string };
  doc: string;
}

export interface RawItem {
  name: string;
  'spec-name'?: string;
  ref?: string;
  since?: string;
  deprecated?: { since: string; use: string };
  renamed?: { from: string; in: string }[];
  doc?: string;
  erratum?: string;
}

export interface RawMessages extends RawFileBase {
  kind: 'messages';
  direction: 'front-end-to-back-end' | 'back-end-to-front-end';
  prefix: string;
  requires?: RawGate;
  'fd-roles'?: { name: string; doc: string }[];
  requests: RawRequest[];
  reserved?: { id: number; why: string }[];
}

export interface RawRequest extends RawItem {
  id: number;
  requires?: RawGate;
  request?: string;
  fds?: RawFds;
  reply: RawReply;
}

export interface RawGate {
  protocol?: string[];
  virtio?: string[];
  offered?: true;
  excludes?: string[];
  note?: string;
}

export interface RawFds {
  role: string;
  exactly?: number;
  max?: number;
  'count-of'?: string;
  'absent-if-bit'?: number;
  tolerated?: number;
}

export type RawPlainReply =
  | 'ack'
  | {
      payload: string;
      fds?: { role: string; max: number };
      empty?: 'success' | 'error';
      confirmed?: true;
    };

export type RawReply =
  | RawPlainReply
  | {
      when: { protocol?: string[]; state?: string };
      then: RawPlainReply;
      otherwise: RawPlainReply;
    };

export interface RawFeatures extends RawFileBase {
  kind: 'features';
  word: 'protocol' | 'virtio' | 'device';
  width: number;
  prefix: string;
  headers?: string[];
  bits: RawBit[];
  reserved?: { bit: number; why: string }[];
}

export interface RawBit extends RawItem {
  bit: number;
  requires?: RawFeatureSets;
  negotiable?: false;
}

export interface RawFeatureSets {
  protocol?: string[];
  virtio?: string[];
  device?: string[];
}

export interface RawLayouts extends RawFileBase {
  kind: 'layouts';
  'byte-order': 'little' | 'native';
  headers?: string[];
  constants?: (RawItem & { value: number })[];
  enums?: RawEnum[];
  queues?: (RawItem & { index: number; repeats: boolean })[];
  structs?: RawStruct[];
}

export interface RawEnum extends RawItem {
  form: 'values' | 'bits';
  type: string;
  open: boolean;
  prefix: string;
  members: (RawItem & { bit?: number; value?: number })[];
}

export interface RawStruct extends RawItem {
  form: 'record' | 'offsets' | 'both';
  'byte-order'?: 'little' | 'native';
  size: number | string;
  align: number;
  params?: { name: string; type: string }[];
  'written-by': 'driver' | 'device' | 'both';
  proof?: { header: string; struct: string; size?: number };
  fields: RawField[];
}

export interface RawField extends RawItem {
  type: string;
  offset: number | string;
  requires?: { virtio?: string[]; device?: string[]; 'any-of'?: { virtio?: string[]; device?: string[] } };
  enum?: string;
  'must-be'?: number;
  ignored?: true;
  as?: 'guest-address';
  access?: 'plain' | 'acquire' | 'release';
  count?: number | { field?: string; param?: string; max?: number };
  length?: number | { field?: string; rest?: true; max?: number };
  'c-name'?: string;
  proven?: false;
  parts?: { name: string; 'low-bit': number; width: number; doc: string }[];
}
