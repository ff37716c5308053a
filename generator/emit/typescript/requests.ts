import { StructureKind } from 'ts-morph';
import type { LayoutRef, MessagesFile, PlainReply, Request } from '../../model/types.js';
import { camelCase, pascalCase, plural } from '../../names.js';
import { isWide, type Lookup } from '../lookup.js';
import { comment, describe } from './documentation.js';
import { featureMask } from './features.js';
import { constObject, type Entry, objectLiteral, quote } from './literal.js';
import type { ModuleBuilder } from './module.js';

/** Ids, names, payload and reply types, the request table with its index by id, and the handler types. */
export function emitRequests(module: ModuleBuilder, file: MessagesFile, lookup: Lookup): void {
  const name = pascalCase(file.name);
  const requests = plural(name);
  const table = plural(camelCase(file.name));
  module.add(
    constObject({
      name: `${name}Id`,
      doc: comment([file.doc, 'Ids on the wire.']),
      suffix: ' as const',
      entries: file.requests.map((request) => ({
        key: camelCase(request.name),
        value: String(request.id),
        doc: describe(request),
      })),
    }),
    { kind: StructureKind.TypeAlias, isExported: true, name: `${name}Name`, type: `keyof typeof ${name}Id` },
    {
      kind: StructureKind.Interface,
      isExported: true,
      name: requests,
      docs: [
        comment([
          'What travels with each request. `void`: nothing; a reply of `void` is at most an acknowledgement. A union: ' +
            'it depends on what was negotiated, as the row says.',
        ]),
      ],
      properties: file.requests.map((request) => ({
        name: camelCase(request.name),
        type: `{ payload: ${valueType(module, request.payload)}; reply: ${replyType(module, request)} }`,
      })),
    },
    constObject({
      name: table,
      doc: comment(['The request table: all that is known of each request, one row each.']),
      type:
        `{ readonly [N in ${name}Name]: ` +
        `${module.wireType('RequestRow')}<N, ${requests}[N]['payload'], ${requests}[N]['reply']> }`,
      entries: file.requests.map((request) => row(module, request, lookup)),
    }),
    (writer) => {
      writer.writeLine('/** The same rows by id. */');
      writer.write(
        `export const ${camelCase(file.name)}ById: ReadonlyMap<number, ${module.wireType('RequestRow')}> = new Map(`,
      );
      writer.newLine();
      writer.indent(() => {
        writer.writeLine(
          `Object.values<${module.wireType('RequestRow')}>(${table}).map((row) => [row.id, row]),`,
        );
      });
      writer.write(');');
    },
    {
      kind: StructureKind.TypeAlias,
      isExported: true,
      name: `${name}Handler`,
      docs: [
        comment([
          'Serves one request: `fds` are those that came with it. What it returns is the reply; nothing for an ' +
            'acknowledgement.',
        ]),
      ],
      typeParameters: [{ name: 'N', constraint: `${name}Name` }, 'Context', 'Fds'],
      type:
        `(context: Context, payload: ${requests}[N]['payload'], fds: Fds) => ` +
        `${requests}[N]['reply'] | Promise<${requests}[N]['reply']>`,
    },
    {
      kind: StructureKind.TypeAlias,
      isExported: true,
      name: `${name}Handlers`,
      docs: ['One handler a request; a request without one does not compile.'],
      typeParameters: ['Context', 'Fds'],
      type: `{ readonly [N in ${name}Name]: ${name}Handler<N, Context, Fds> }`,
    },
  );
}

function row(module: ModuleBuilder, request: Request, lookup: Lookup): Entry {
  const { fds, gate } = request;
  const fileName = (ref: Parameters<Lookup['features']>[0]) => lookup.features(ref).name;
  return {
    key: camelCase(request.name),
    value: objectLiteral([
      { key: 'id', value: String(request.id) },
      { key: 'name', value: quote(camelCase(request.name)) },
      { key: 'specName', value: quote(request.specName) },
      { key: 'payload', value: codec(module, request.payload) },
      {
        key: 'fds',
        value: inline([
          ['role', fds.role === null ? 'null' : quote(fds.role)],
          ['min', String(fds.min)],
          ['max', String(fds.max)],
          ['countOf', fds.countOf === null ? 'null' : quote(camelCase(fds.countOf))],
          ['absentIfBit', String(fds.absentIfBit)],
          ['tolerated', String(fds.tolerated)],
        ]),
      },
      { key: 'reply', value: reply(module, request, fileName) },
      {
        key: 'gate',
        value: inline([
          ['protocol', featureMask(module, gate.protocol, fileName)],
          ['virtio', featureMask(module, gate.virtio, fileName)],
          ['virtioOffered', String(gate.virtioOffered)],
          ['excludes', featureMask(module, gate.excludes, fileName)],
        ]),
      },
    ]),
  };
}

function reply(
  module: ModuleBuilder,
  { reply: rule }: Request,
  fileName: Parameters<typeof featureMask>[2],
): string {
  const parts = plainReply(module, rule);
  if (rule.when !== null) {
    const condition = inline([
      ['protocol', featureMask(module, rule.when.protocol, fileName)],
      ['state', rule.when.state === null ? 'null' : quote(rule.when.state)],
      ['then', inline(plainReply(module, rule.when.then))],
    ]);
    parts.push(['when', condition]);
  }
  return inline(parts);
}

function plainReply(module: ModuleBuilder, rule: PlainReply): [string, string][] {
  if (rule.kind === 'ack') return [['kind', quote('ack')]];
  const parts: [string, string][] = [
    ['kind', quote('payload')],
    ['codec', codec(module, rule.payload)],
    ['fds', String(rule.fds)],
  ];
  if (rule.empty !== null) parts.push(['empty', quote(rule.empty)]);
  if (rule.confirmed) parts.push(['confirmed', 'true']);
  return parts;
}

function inline(parts: readonly (readonly [string, string])[]): string {
  return `{ ${parts.map(([key, value]) => `${key}: ${value}`).join(', ')} }`;
}

/** The codec of a payload as an expression. */
function codec(module: ModuleBuilder, layout: LayoutRef | null): string {
  if (layout === null) return 'null';
  if (layout.kind === 'struct') return module.schema(layout.file, pascalCase(layout.name));
  if (layout.type !== 'u64')
    throw new Error(`a payload that is a bare ${layout.type} has no codec in runtime/wire`);
  return module.wire('u64');
}

function valueType(module: ModuleBuilder, layout: LayoutRef | null): string {
  if (layout === null) return 'void';
  if (layout.kind === 'scalar') return isWide(layout.type) ? 'bigint' : 'number';
  return module.schemaType(layout.file, pascalCase(layout.name));
}

function replyType(module: ModuleBuilder, { reply: rule }: Request): string {
  const types = [rule, ...(rule.when === null ? [] : [rule.when.then])].flatMap((each) =>
    plainTypes(module, each),
  );
  return [...new Set(types)]
    .sort((left, right) => Number(left === 'void') - Number(right === 'void'))
    .join(' | ');
}

/** A payload that may be empty is `void` then, when that stands for success; an empty error is an exception. */
function plainTypes(module: ModuleBuilder, rule: PlainReply): string[] {
  if (rule.kind === 'ack') return ['void'];
  return [valueType(module, rule.payload), ...(rule.empty === 'success' ? ['void'] : [])];
}
