import { WireReader } from './reader.js';
import { WireWriter } from './writer.js';

/** How one layout is read from and written to the wire. Generated; the objects are stateless. */
export interface Codec<Value> {
  /** Specification name of the layout, for error messages. */
  readonly layout: string;
  /** Smallest and largest size in bytes that the layout can have. Equal for a fixed one. */
  readonly minSize: number;
  readonly maxSize: number;
  /** Bytes that `value` takes. */
  size(value: Value): number;
  /** Throws WireError on anything the layout does not allow. Leaves the cursor behind the last field. */
  decode(reader: WireReader): Value;
  encode(writer: WireWriter, value: Value): void;
}

/** Decodes bytes that must hold exactly one `codec` value. Throws WireError. */
export function decodeExactly<Value>(codec: Codec<Value>, bytes: Uint8Array): Value {
  const reader = new WireReader(bytes);
  const value = codec.decode(reader);
  reader.end(codec.layout);
  return value;
}

/** Encodes one value into bytes of its own. Throws WireError when a field does not fit. */
export function encodeToBytes<Value>(codec: Codec<Value>, value: Value): Uint8Array {
  const bytes = new Uint8Array(codec.size(value));
  codec.encode(new WireWriter(bytes), value);
  return bytes;
}

/** The payload that is just one u64. */
export const u64: Codec<bigint> = {
  layout: 'u64',
  minSize: 8,
  maxSize: 8,
  size: () => 8,
  decode: (reader) => reader.u64('u64'),
  encode: (writer, value) => writer.u64(value, 'u64'),
};
