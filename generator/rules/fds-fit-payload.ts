import type { Rule } from './rule.js';
import { findStruct, requestsOf } from './walk.js';

/** What one message can carry with every common peer. */
const MOST_FDS = 8;

export const fdsFitPayload: Rule = {
  code: 'fds-fit-payload',
  summary: 'The number of file descriptors can be told from the payload, and a message can carry so many.',
  check({ model }, report) {
    for (const { payload, fds } of requestsOf(model)) {
      if (fds.max + fds.tolerated > MOST_FDS) report(fds, null, `a message carries at most ${MOST_FDS}`);
      if (fds.countOf !== null) {
        const struct = payload?.kind === 'struct' ? findStruct(model, payload) : null;
        const list = struct?.fields.find((field) => field.name === fds.countOf);
        if (list?.count?.kind !== 'field')
          report(fds, 'count-of', `the payload has no counted list '${fds.countOf}'`);
        else if (list.count.max > MOST_FDS)
          report(fds, 'count-of', `'${fds.countOf}' can be longer than ${MOST_FDS}`);
      }
      if (
        fds.absentIfBit !== null &&
        !(payload?.kind === 'scalar' && payload.type === 'u64' && fds.absentIfBit < 64)
      ) {
        report(fds, 'absent-if-bit', `the payload is no u64 with a bit ${fds.absentIfBit}`);
      }
    }
  },
};
