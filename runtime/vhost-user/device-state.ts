import { VhostError } from '../errors.js';

/**
 * A device's state as it goes through the channel of SET_DEVICE_STATE_FD. The protocol leaves its form to the back-end; this one
 * lets another of its kind recognise it, and refuse that of another device type.
 *
 *   0  u32  magic "VUDS"      4  u16  version, 1      6  u16  device id      8  u32  length of what follows
 */
const MAGIC = 0x53445556;
const VERSION = 1;
const HEADER = 12;

export function packState(deviceId: number, state: Uint8Array): Uint8Array {
  const packed = new Uint8Array(HEADER + state.byteLength);
  const view = new DataView(packed.buffer);
  view.setUint32(0, MAGIC, true);
  view.setUint16(4, VERSION, true);
  view.setUint16(6, deviceId, true);
  view.setUint32(8, state.byteLength, true);
  packed.set(state, HEADER);
  return packed;
}

/** What `packState` was given. Throws VhostError (ERR_VHOST_PAYLOAD) for anything else. */
export function unpackState(deviceId: number, packed: Uint8Array): Uint8Array {
  const refuse = (what: string): never => {
    throw new VhostError('ERR_VHOST_PAYLOAD', `device state of ${packed.byteLength} bytes: ${what}`);
  };
  if (packed.byteLength < HEADER) return refuse(`its header alone has ${HEADER}`);
  const view = new DataView(packed.buffer, packed.byteOffset, packed.byteLength);
  if (view.getUint32(0, true) !== MAGIC) return refuse('it does not begin like one of this back-end');
  const version = view.getUint16(4, true);
  if (version !== VERSION) return refuse(`expected version ${VERSION}, got ${version}`);
  const id = view.getUint16(6, true);
  if (id !== deviceId) return refuse(`it is that of device type ${id}, this is ${deviceId}`);
  const length = view.getUint32(8, true);
  if (length !== packed.byteLength - HEADER) return refuse(`it says that ${length} bytes follow its header`);
  return packed.subarray(HEADER);
}
