/** What the block device stands on, public as `vhost-user/backings`. */
export { type FileBackingOptions, openFileBacking } from './file.js';
export { NullBacking } from './null.js';
export { RamBacking } from './ram.js';
