import type {
  FeatureRef,
  Fds,
  GateMasks,
  LayoutRef,
  MessagesFile,
  PlainReply,
  Request,
} from '../model/types.js';
import { type Changes, newIn, pair } from './change.js';
import type { SameLayout } from './shape.js';

/** Requests are known on the wire by their id. `sameLayout` tells layouts apart. */
export function diffMessages(
  before: MessagesFile,
  after: MessagesFile,
  sameLayout: SameLayout,
  changes: Changes,
): void {
  changes.value('direction', 'the direction', before.direction, after.direction);
  const { both, removed, added } = pair(before.requests, after.requests, (request) => request.id);
  for (const request of removed) {
    const moved = after.requests.find((each) => each.name === request.name);
    const text = moved === undefined ? 'was removed' : `has id ${moved.id} now`;
    changes.breaking(request.name, `request ${request.id} ${text}`);
  }
  for (const request of added) {
    if (!before.requests.some((each) => each.name === request.name)) {
      changes.compatible(request.name, `request ${request.id} is new`);
    }
  }
  for (const [old, now] of both) {
    changes.value(now.name, 'the specification name', old.specName, now.specName, false);
    changes.value(now.name, 'the name', old.name, now.name, false);
    if (!sameLayout(old.payload, now.payload)) {
      changes.breaking(
        now.name,
        `the payload was ${layoutName(old.payload)}, is ${layoutName(now.payload)}, laid out otherwise`,
      );
    }
    diffFds(old.fds, now.fds, now.name, changes);
    diffReply(old, now, sameLayout, changes);
    diffGate(old.gate, now.gate, now.name, changes);
  }
}

function diffFds(old: Fds, now: Fds, name: string, changes: Changes): void {
  changes.value(name, 'the role of its fds', old.role, now.role);
  changes.value(name, 'the list that counts its fds', old.countOf, now.countOf);
  changes.value(name, 'the bit for no fd', old.absentIfBit, now.absentIfBit);
  changes.value(name, 'the fewest fds', old.min, now.min, now.min > old.min);
  changes.value(name, 'the most fds', old.max, now.max, now.max < old.max);
  changes.value(name, 'tolerated fds', old.tolerated, now.tolerated, now.tolerated < old.tolerated);
}

function diffReply({ reply: old }: Request, now: Request, sameLayout: SameLayout, changes: Changes): void {
  const { reply } = now;
  const condition = (rule: Request['reply']) =>
    JSON.stringify([rule.when?.protocol.map(bitOf), rule.when?.state]);
  const same =
    samePlainReply(old, reply, sameLayout) &&
    condition(old) === condition(reply) &&
    (old.when === null || reply.when === null || samePlainReply(old.when.then, reply.when.then, sameLayout));
  if (!same) changes.breaking(now.name, 'the reply rule changed');
}

function samePlainReply(old: PlainReply, now: PlainReply, sameLayout: SameLayout): boolean {
  if (old.kind === 'ack' || now.kind === 'ack') return old.kind === now.kind;
  return (
    sameLayout(old.payload, now.payload) &&
    old.fds === now.fds &&
    old.fdRole === now.fdRole &&
    old.empty === now.empty &&
    old.confirmed === now.confirmed
  );
}

function diffGate(old: GateMasks, now: GateMasks, name: string, changes: Changes): void {
  for (const word of ['protocol', 'virtio'] as const) {
    const [before, after] = [old[word].map(bitOf), now[word].map(bitOf)];
    for (const need of newIn(before, after)) changes.breaking(name, `now needs ${need}`);
    for (const need of newIn(after, before)) changes.compatible(name, `no longer needs ${need}`);
  }
  const [before, after] = [old.excludes.map(bitOf), now.excludes.map(bitOf)];
  for (const bit of newIn(before, after)) changes.breaking(name, `is now forbidden by ${bit}`);
  for (const bit of newIn(after, before)) changes.compatible(name, `is no longer forbidden by ${bit}`);
  changes.value(name, 'offered is enough', old.virtioOffered, now.virtioOffered, old.virtioOffered);
}

function bitOf(ref: FeatureRef): string {
  return `bit ${ref.bit} of ${ref.file}`;
}

function layoutName(layout: LayoutRef | null): string {
  return layout === null ? 'none' : layout.kind === 'scalar' ? layout.type : layout.name;
}
