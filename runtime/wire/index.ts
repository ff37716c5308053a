export { WireReader } from './reader.js';
export { WireWriter } from './writer.js';
export { type Codec, decodeExactly, encodeToBytes, u64 } from './codec.js';
export type { FdRule, Gate, ReplyCondition, ReplyRule, RequestRow } from './request-row.js';
export { closeFeatures, featureNames, type FeatureBit, type FeatureTable } from './feature-table.js';
export { WireError } from '../errors.js';
