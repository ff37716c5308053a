import { PlatformError, VhostUserError } from '../../../runtime/errors.js';

/** Errors of this kind, and any use of an fd after it was closed, tell of a defect in this package, whatever the peer did. */
const DEFECTS: ReadonlySet<string> = new Set(['ERR_PLATFORM_ARGUMENT', 'ERR_VIRTQ_HANDLE']);

/** Throws the error on when it, or what caused it, is none of the package's own, or tells of a defect in it. */
export function checkOwnError(error: unknown): void {
  for (let each = error; each !== undefined && each !== null; each = (each as Error).cause) {
    const stale = each instanceof PlatformError && each.errno === 'EBADF';
    const own = each instanceof VhostUserError && !DEFECTS.has(each.code) && !stale;
    // Behind the platform's error stands the system's.
    if (own && each instanceof PlatformError) return;
    // What a device of the fuzzer threw on purpose.
    if (own || each instanceof OrderedFailure) continue;
    throw new Error(`not one of the package's own errors, or a defect: ${String(each)}`, { cause: error });
  }
}

/** A device of the fuzzer fails on purpose. */
export class OrderedFailure extends Error {}
