import type { BlockBacking } from '../devices/blk/backing.js';
import { DeviceError } from '../errors.js';
import type { Platform } from '../platform/platform.js';

export interface FileBackingOptions {
  readonly readOnly?: boolean;
  /** Past the page cache (O_DIRECT). */
  readonly direct?: boolean;
}

/**
 * An image file or a block device. A tail of less than a sector is not served. Throws PlatformError when it cannot be
 * opened and DeviceError (ERR_DEVICE_CONFIGURATION) when it holds not one sector.
 */
export function openFileBacking(
  platform: Platform,
  path: string,
  options: FileBackingOptions = {},
): BlockBacking {
  const { readOnly = false, direct = false } = options;
  const file = platform.openFile(path, { readOnly, direct });
  const { size } = file;
  if (size < 512n) {
    void file.close();
    throw new DeviceError('ERR_DEVICE_CONFIGURATION', `${path}: ${size} bytes, a disk has at least 512`);
  }
  return file;
}
