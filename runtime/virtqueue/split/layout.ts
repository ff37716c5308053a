/** Names of the split ring's constants for the loops, whose own modules copy what a loop uses: see device.ts. */
import { VirtqAvailFlag, VirtqDescFlag, VirtqUsedFlag } from '../../../generated/virtio/split-virtqueue.js';

export const NEXT = VirtqDescFlag.next;
export const WRITE = VirtqDescFlag.write;
export const INDIRECT = VirtqDescFlag.indirect;
/** In the available ring's flags: no calls, please. */
export const NO_INTERRUPT = VirtqAvailFlag.noInterrupt;
/** In the used ring's flags: no kicks, please. */
export const NO_NOTIFY = VirtqUsedFlag.noNotify;
