import type { Model } from '../../model/types.js';
import type { Output } from '../output.js';
import { emitHeader } from './header.js';
import { emitKernelProof } from './kernel-proof.js';

/** The C header and the file that proves it against the kernel's headers. */
export function emitC(model: Model): Output[] {
  return [emitHeader(model), emitKernelProof(model)];
}
