import type { BlockBacking } from '../devices/blk/backing.js';
import { DeviceError, PlatformError } from '../errors.js';
import type { BlockFile, Platform } from '../platform/platform.js';

export interface FileBackingOptions {
  readonly readOnly?: boolean;
  /** Past the page cache (O_DIRECT). */
  readonly direct?: boolean;
}

/**
 * An image file or a block device. A tail of less than a sector is not served. Throws PlatformError when it cannot be
 * opened and DeviceError (ERR_DEVICE_CONFIGURATION) when it holds not one sector or may only be read and `readOnly` was not
 * asked for.
 */
export function openFileBacking(
  platform: Platform,
  path: string,
  options: FileBackingOptions = {},
): BlockBacking {
  const { readOnly = false, direct = false } = options;
  const file = open(platform, path, { readOnly, direct });
  const { size } = file;
  if (size < 512n) {
    void file.close();
    throw new DeviceError('ERR_DEVICE_CONFIGURATION', `${path}: ${size} bytes, a disk has at least 512`);
  }
  return file;
}

const MAY_NOT_WRITE = new Set(['EROFS', 'EACCES', 'EPERM']);

function open(platform: Platform, path: string, options: { readOnly: boolean; direct: boolean }): BlockFile {
  try {
    return platform.openFile(path, options);
  } catch (cause) {
    const refused = cause instanceof PlatformError && MAY_NOT_WRITE.has(cause.errno ?? '');
    if (options.readOnly || !refused) throw cause;
    throw new DeviceError(
      'ERR_DEVICE_CONFIGURATION',
      `${path} may not be written; if it is to be read only, say so (read-only)`,
      { cause },
    );
  }
}
