export { type BlockBacking, BlockOperation } from './backing.js';
export { BlockDevice } from './block-device.js';
export type { BlockDeviceOptions } from './options.js';
