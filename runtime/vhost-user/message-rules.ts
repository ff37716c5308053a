import type { NegotiatedFeatures } from './negotiated-features.js';
import type { FdRule, ReplyRule, RequestRow } from '../wire/index.js';

/** How many fds go with a message: the row's rule applied to the payload. */
export function expectedFds(rule: FdRule, payload: unknown): { readonly min: number; readonly max: number } {
  if (rule.countOf !== null) {
    const { length } = (payload as Record<string, { length: number }>)[rule.countOf]!;
    return { min: length, max: length };
  }
  if (rule.absentIfBit !== null) {
    const absent = (((payload as bigint) >> BigInt(rule.absentIfBit)) & 1n) === 1n;
    return absent ? { min: 0, max: 0 } : { min: rule.max, max: rule.max };
  }
  return rule;
}

/** The reply rule that holds with these features, in the state that the conversation is in. */
export function replyRuleOf(row: RequestRow, features: NegotiatedFeatures): ReplyRule {
  const { when } = row.reply;
  if (when === undefined) return row.reply;
  const holds = when.state === null ? features.hasProtocol(when.protocol) : features.states.has(when.state);
  return holds ? when.then : row.reply;
}
