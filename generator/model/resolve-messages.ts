import type { NodePath } from '../load/schema-document.js';
import { prefixed, resolveFileBase, resolveItem, type ResolveContext } from './resolve-context.js';
import type { RawFds, RawGate, RawMessages, RawPlainReply, RawReply, RawRequest } from './raw.js';
import type { Fds, GateMasks, LayoutRef, MessagesFile, PlainReply, Reply, Request } from './types.js';

export function resolveMessages(raw: RawMessages, context: ResolveContext): MessagesFile {
  const common = resolveGate(raw.requires, ['requires'], context);
  return context.mark(
    {
      ...resolveFileBase(raw, context.path),
      kind: 'messages',
      direction: raw.direction,
      prefix: raw.prefix,
      fdRoles: (raw['fd-roles'] ?? []).map((role, index) => context.mark({ ...role }, ['fd-roles', index])),
      requests: raw.requests.map((request, index) =>
        resolveRequest(request, raw.prefix, common, ['requests', index], context),
      ),
      reserved: (raw.reserved ?? []).map((entry, index) => context.mark({ ...entry }, ['reserved', index])),
    },
    [],
  );
}

function resolveRequest(
  raw: RawRequest,
  prefix: string,
  common: GateMasks,
  path: NodePath,
  context: ResolveContext,
): Request {
  const own = resolveGate(raw.requires, [...path, 'requires'], context);
  return context.mark(
    {
      ...resolveItem(raw, prefixed(prefix, raw.name)),
      id: raw.id,
      payload: raw.request === undefined ? null : resolveLayout(raw.request, [...path, 'request'], context),
      fds: context.mark(resolveFds(raw.fds), raw.fds === undefined ? path : [...path, 'fds']),
      reply: resolveReply(raw.reply, [...path, 'reply'], context),
      gate: {
        protocol: [...common.protocol, ...own.protocol],
        virtio: [...common.virtio, ...own.virtio],
        virtioOffered: own.virtioOffered,
        excludes: [...common.excludes, ...own.excludes],
        note: own.note ?? common.note,
      },
    },
    path,
  );
}

function resolveGate(raw: RawGate | undefined, path: NodePath, context: ResolveContext): GateMasks {
  return {
    protocol: context.features('protocol', raw?.protocol, path),
    virtio: context.features('virtio', raw?.virtio, path),
    virtioOffered: raw?.offered ?? false,
    excludes: context.features('protocol', raw?.excludes, path),
    note: raw?.note ?? null,
  };
}

function resolveFds(raw: RawFds | undefined): Fds {
  if (raw === undefined) {
    return { role: null, min: 0, max: 0, countOf: null, absentIfBit: null, tolerated: 0 };
  }
  return {
    role: raw.role,
    min: raw.exactly ?? 0,
    // The list's own bound is the most that can come; a message carries no more than that anyway.
    max: raw.exactly ?? raw.max ?? (raw['count-of'] === undefined ? 0 : 8),
    countOf: raw['count-of'] ?? null,
    absentIfBit: raw['absent-if-bit'] ?? null,
    tolerated: raw.tolerated ?? 0,
  };
}

function resolveReply(raw: RawReply, path: NodePath, context: ResolveContext): Reply {
  if (typeof raw === 'string' || !('when' in raw)) {
    return context.mark({ ...resolvePlainReply(raw, path, context), when: null }, path);
  }
  const when = context.mark(
    {
      protocol: context.features('protocol', raw.when.protocol, [...path, 'when']),
      state: raw.when.state ?? null,
      then: context.mark(resolvePlainReply(raw.then, [...path, 'then'], context), [...path, 'then']),
    },
    [...path, 'when'],
  );
  return context.mark({ ...resolvePlainReply(raw.otherwise, [...path, 'otherwise'], context), when }, [
    ...path,
    'otherwise',
  ]);
}

function resolvePlainReply(raw: RawPlainReply, path: NodePath, context: ResolveContext): PlainReply {
  if (raw === 'ack') return { kind: 'ack' };
  return {
    kind: 'payload',
    payload: raw.payload === 'none' ? null : resolveLayout(raw.payload, [...path, 'payload'], context),
    fds: raw.fds?.max ?? 0,
    fdRole: raw.fds?.role ?? null,
    empty: raw.empty ?? null,
    confirmed: raw.confirmed ?? false,
  };
}

function resolveLayout(name: string, path: NodePath, context: ResolveContext): LayoutRef | null {
  const layout = context.references.layout(name, context.path);
  return context.resolved(layout, path, `there is no struct '${name}'`);
}
