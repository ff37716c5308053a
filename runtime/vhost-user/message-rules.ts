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

/** The reply rule that holds with these protocol features. Named states belong to postcopy, which nobody offers. */
export function replyRuleOf(row: RequestRow, acceptedProtocol: bigint): ReplyRule {
  const { when } = row.reply;
  if (when === undefined || when.state !== null) return row.reply;
  return (acceptedProtocol & when.protocol) === when.protocol ? when.then : row.reply;
}
