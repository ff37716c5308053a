import { VhostError } from '../../errors.js';

/** What a back-end has mapped lies in whole pages of this size at least. */
const PAGE = 4096n;
/** Largest offset of a file. */
const MAX_OFFSET = (1n << 63n) - 1n;

/** Throws ERR_VHOST_PAYLOAD unless `length` bytes at `offset` are whole pages, at least one, of a file or a region. */
export function checkPages(what: string, offset: bigint, length: bigint): void {
  const fault =
    length === 0n
      ? 'is empty'
      : offset % PAGE !== 0n || length % PAGE !== 0n
        ? `does not consist of whole pages of ${PAGE} bytes`
        : offset + length > MAX_OFFSET
          ? 'ends beyond the largest file offset'
          : null;
  if (fault === null) return;
  throw new VhostError('ERR_VHOST_PAYLOAD', `${what} ${fault}: ${length} bytes at 0x${offset.toString(16)}`);
}
