import type { SchemaFile, Struct } from '../model/types.js';
import { camelCase, OBJECT_MEMBERS, pascalCase, WIRE_EXPORTS } from '../names.js';
import type { Report, Rule } from './rule.js';

interface Named {
  readonly name: string;
}

export const namesUnique: Rule = {
  code: 'names-unique',
  summary:
    'Names differ after casing: inside what holds them, and over all files for what the generated entry exports flat.',
  check({ model }, report) {
    const exported = new Map(WIRE_EXPORTS.map((name) => [name.toLowerCase(), 'runtime/wire']));
    for (const file of model.files) {
      for (const { item, name } of exportsOf(file)) {
        const other = exported.get(folded(name));
        if (other !== undefined) report(item, 'name', `'${name}' is already exported for ${other}`);
        else exported.set(folded(name), file.path);
      }
      for (const names of namespacesOf(file)) checkNames(names, report);
      if (file.kind === 'layouts') for (const struct of file.structs) checkAccessors(struct, report);
    }
  },
};

/** What casing makes of a name, up to the case of letters. */
function folded(name: string): string {
  return name.replaceAll('-', '');
}

function checkNames(names: readonly Named[], report: Report): void {
  const seen = new Set<string>();
  for (const item of names) {
    if (seen.has(folded(item.name))) report(item, 'name', `there is another '${item.name}'`);
    seen.add(folded(item.name));
  }
}

/** The members of an object with accessors: its own, and those that each field gives. */
function checkAccessors(struct: Struct, report: Report): void {
  if (struct.form === 'record') return;
  const taken = new Map(OBJECT_MEMBERS.map((member) => [member, 'the object itself']));
  const fields = struct.fields.filter((field) => !field.ignored);
  for (const field of fields) {
    const [name, tail] = [camelCase(field.name), pascalCase(field.name)];
    const ordered = field.access === 'plain' ? [] : [`load${tail}`, `store${tail}`];
    const members = field.type.kind === 'struct' ? [name, `${name}Index`] : [name, `set${tail}`, ...ordered];
    const member = members.find((each) => taken.has(each));
    if (member !== undefined) report(field, 'name', `'${member}' is of ${taken.get(member)!} already`);
    for (const each of members) taken.set(each, `'${field.name}'`);
  }
}

/** Names that end up in the one flat list of exports, as suffixes of the schema's names. */
function exportsOf(file: SchemaFile): { item: object; name: string }[] {
  if (file.kind === 'layouts') {
    const named = [...file.constants, ...file.enums, ...file.structs].map((item) => ({
      item,
      name: item.name,
    }));
    const guards = file.enums
      .filter((each) => each.form === 'values' && !each.open)
      .map((item) => ({ item, name: `is-${item.name}` }));
    return [
      ...named,
      ...guards,
      ...(file.queues.length > 0 ? [{ item: file, name: `${file.name}-queues` }] : []),
    ];
  }
  const derived =
    file.kind === 'features'
      ? [
          file.name,
          `${file.name}-name`,
          `${file.name}-table`,
          `close-${file.name}s`,
          `negotiable-${file.name}s`,
        ]
      : ['-id', '-name', 's', '-by-id', '-handler', '-handlers'].map((tail) => file.name + tail);
  return derived.map((name) => ({ item: file, name }));
}

/** Lists whose names become keys of one object. */
function namespacesOf(file: SchemaFile): (readonly Named[])[] {
  if (file.kind === 'messages') return [file.requests, file.fdRoles];
  if (file.kind === 'features') return [file.bits];
  return [
    file.queues,
    ...file.enums.map((enumeration) => enumeration.members),
    ...file.structs.map((struct) => [...struct.params, ...struct.fields]),
    ...file.structs.flatMap((struct) => struct.fields.map((field) => field.parts)),
  ];
}
