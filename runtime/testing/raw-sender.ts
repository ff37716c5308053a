import type { SocketStream } from '../platform/platform.js';

/**
 * Writes bytes to a socket as they are, past everything that makes messages of them. Not while a message is half sent: what
 * comes between its halves is part of it.
 */
export class RawSender {
  readonly #stream: SocketStream;

  constructor(stream: SocketStream) {
    this.#stream = stream;
  }

  /**
   * Sends bytes; `fds` go with the first of them and stay the caller's. Resolves when the socket has taken all. Rejects with
   * PlatformError when the peer is gone.
   */
  async sendBytes(bytes: Uint8Array, fds: readonly number[] = []): Promise<void> {
    for (let sent = 0; sent < bytes.byteLength;) {
      const taken = this.#stream.send(bytes.subarray(sent), sent === 0 ? fds : []);
      if (taken > 0) sent += taken;
      else await new Promise(setImmediate);
    }
  }

  /** Sends one message. `size` states another payload size than there is. `flags` include the version. */
  send(
    request: number,
    flags: number,
    payload: Uint8Array,
    fds: readonly number[] = [],
    size = payload.byteLength,
  ): Promise<void> {
    const bytes = new Uint8Array(12 + payload.byteLength);
    const header = new DataView(bytes.buffer);
    header.setUint32(0, request, true);
    header.setUint32(4, flags, true);
    header.setUint32(8, size, true);
    bytes.set(payload, 12);
    return this.sendBytes(bytes, fds);
  }
}
