/** The typed array that accessors of a struct read. */
export interface View {
  readonly type: 'Uint8Array' | 'Uint16Array' | 'Uint32Array';
  /** Name of the parameter. */
  readonly name: 'u8' | 'u16' | 'u32';
  /** Bytes of an element. */
  readonly unit: 1 | 2 | 4;
}

export const VIEWS: Readonly<Record<1 | 2 | 4, View>> = {
  1: { type: 'Uint8Array', name: 'u8', unit: 1 },
  2: { type: 'Uint16Array', name: 'u16', unit: 2 },
  4: { type: 'Uint32Array', name: 'u32', unit: 4 },
};
