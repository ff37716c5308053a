import type { FeatureRef, LayoutRef, MessagesFile, PlainReply, Request } from '../../model/types.js';
import { camelCase } from '../../names.js';
import { errata, introduction, provenance } from './provenance.js';
import { code, table } from './table.js';

/** The page of a messages file: the table of requests, then each of them. */
export function messagesPage(file: MessagesFile, link: (layout: LayoutRef) => string): string {
  const overview = table(
    ['Id', 'Request', 'Payload', 'Fds', 'Reply', 'Needs'],
    file.requests.map((request) => [
      String(request.id),
      code(request.specName),
      payload(request.payload, link),
      fds(request),
      reply(request, link),
      gate(request),
    ]),
  );
  const reserved = file.reserved.map(({ id, why }) => `- ${id}: ${why}\n`);
  const roles = table(
    ['File descriptor', 'What it is'],
    file.fdRoles.map((role) => [role.name, role.doc]),
  );
  const details = file.requests.map((request) =>
    [
      `### ${request.specName}`,
      '',
      `${code(camelCase(request.name))}, id ${request.id}. ${request.doc}`,
      '',
      provenance(request),
      '',
    ]
      .join('\n')
      .trimEnd()
      .concat('\n'),
  );
  return [
    introduction(file),
    overview,
    ...(reserved.length === 0 ? [] : [`## Reserved\n\n${reserved.join('')}`]),
    ...(file.fdRoles.length === 0 ? [] : [`## File descriptors\n\n${roles}`]),
    `## Requests\n\n${details.join('\n')}`,
  ]
    .join('\n')
    .concat(errata(file.requests));
}

function payload(layout: LayoutRef | null, link: (layout: LayoutRef) => string): string {
  return layout === null ? '–' : link(layout);
}

function fds({ fds: rule }: Request): string {
  if (rule.role === null) return rule.tolerated === 0 ? '0' : `0 (${rule.tolerated} tolerated)`;
  const number =
    rule.countOf !== null
      ? `one for each of ${code(camelCase(rule.countOf))}`
      : rule.min === rule.max
        ? String(rule.max)
        : `${rule.min}-${rule.max}`;
  const absent = rule.absentIfBit === null ? '' : `, none if bit ${rule.absentIfBit} of the payload is set`;
  const tolerated = rule.tolerated === 0 ? '' : ` (${rule.tolerated} more tolerated)`;
  return `${number} ${rule.role}${tolerated}${absent}`;
}

function reply({ reply: rule }: Request, link: (layout: LayoutRef) => string): string {
  const plain = plainReply(rule, link);
  if (rule.when === null) return plain;
  const condition =
    rule.when.state === null ? `with ${features(rule.when.protocol)}` : `while ${code(rule.when.state)}`;
  return `${plain}; ${condition}: ${plainReply(rule.when.then, link)}`;
}

function plainReply(rule: PlainReply, link: (layout: LayoutRef) => string): string {
  if (rule.kind === 'ack') return 'ack if asked';
  const parts = [rule.payload === null ? 'empty' : link(rule.payload)];
  if (rule.fds > 0) parts.push(`up to ${rule.fds} fd${rule.fds === 1 ? '' : 's'}`);
  if (rule.empty !== null) parts.push(`empty means ${rule.empty}`);
  if (rule.confirmed) parts.push('confirmed by the requester');
  return parts.join(', ');
}

function gate({ gate: rule }: Request): string {
  return [
    features(rule.protocol),
    features(rule.virtio) + (rule.virtioOffered && rule.virtio.length > 0 ? ' offered' : ''),
    rule.excludes.length === 0 ? '' : `not ${features(rule.excludes)}`,
    rule.note ?? '',
  ]
    .filter((part) => part !== '')
    .join(', ');
}

function features(refs: readonly FeatureRef[]): string {
  return refs.map((ref) => code(ref.name)).join(', ');
}
