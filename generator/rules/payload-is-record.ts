import type { LayoutRef, Model } from '../model/types.js';
import type { Rule } from './rule.js';
import { findStruct, requestsOf } from './walk.js';

export const payloadIsRecord: Rule = {
  code: 'payload-is-record',
  summary:
    'A payload, of a request or of a reply, is a u64 or a struct that is encoded and decoded as a record.',
  check({ model }, report) {
    for (const request of requestsOf(model)) {
      const { payload, reply } = request;
      if (!isPayload(model, payload)) report(request, 'request', 'this layout is not a record');
      for (const rule of [reply, reply.when?.then]) {
        if (rule?.kind === 'payload' && !isPayload(model, rule.payload)) {
          report(rule, 'payload', 'this layout is not a record');
        }
      }
    }
  },
};

function isPayload(model: Model, ref: LayoutRef | null): boolean {
  if (ref === null) return true;
  if (ref.kind === 'scalar') return ref.type === 'u64';
  const struct = findStruct(model, ref);
  return struct !== null && struct.form !== 'offsets' && struct.params.length === 0;
}
