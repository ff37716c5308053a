import type { SchemaFile } from '../model/types.js';
import type { Report, Rule } from './rule.js';

interface Named {
  readonly name: string;
}

export const namesUnique: Rule = {
  code: 'names-unique',
  summary:
    'Names differ after casing: inside what holds them, and over all files for what the generated entry exports flat.',
  check({ model }, report) {
    const exported = new Map<string, string>();
    for (const file of model.files) {
      for (const { item, name } of exportsOf(file)) {
        const other = exported.get(folded(name));
        if (other !== undefined) report(item, 'name', `'${name}' is already exported for ${other}`);
        else exported.set(folded(name), file.path);
      }
      for (const names of namespacesOf(file)) checkNames(names, report);
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
