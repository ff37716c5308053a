import { type Lookup, scalarSize } from '../emit/lookup.js';
import type { Enumeration, Field, LayoutsFile, Struct } from '../model/types.js';
import { type Changes, pair } from './change.js';
import { type SameLayout, structShape } from './shape.js';

/** Constants, enumerations, queues and structures, which are known by their names; members and fields by their place. */
export function diffLayouts(
  before: LayoutsFile,
  after: LayoutsFile,
  lookups: { readonly before: Lookup; readonly after: Lookup },
  sameLayout: SameLayout,
  changes: Changes,
): void {
  diffConstants(before, after, changes);
  diffQueues(before, after, changes);
  const enums = pair(before.enums, after.enums, (each) => each.name);
  for (const each of enums.removed) changes.breaking(each.name, 'the enumeration was removed');
  for (const each of enums.added) changes.compatible(each.name, 'the enumeration is new');
  for (const [old, now] of enums.both) diffEnumeration(old, now, changes);

  const structs = pair(before.structs, after.structs, (each) => each.name);
  for (const [old, now] of structs.both) {
    if (structShape(lookups.before, old) !== structShape(lookups.after, now))
      diffStruct(old, now, sameLayout, changes);
    else diffNames(old, now, changes);
    diffBounds(old, now, changes);
    diffMeanings(old, now, lookups.after, changes);
    changes.value(now.name, 'alignment', old.align, now.align, now.align > old.align);
  }
  for (const old of structs.removed) {
    const shape = structShape(lookups.before, old);
    const now = structs.added.find((each) => structShape(lookups.after, each) === shape);
    if (now === undefined) changes.breaking(old.name, 'the structure was removed');
    else changes.compatible(old.name, `the structure is called ${now.name} now`);
  }
  for (const now of structs.added) changes.compatible(now.name, 'the structure is new');
}

function diffConstants(before: LayoutsFile, after: LayoutsFile, changes: Changes): void {
  const { both, removed, added } = pair(before.constants, after.constants, (each) => each.name);
  for (const [old, now] of both) changes.value(now.name, 'the value', old.value, now.value);
  for (const each of removed) changes.breaking(each.name, 'the constant was removed');
  for (const each of added) changes.compatible(each.name, 'the constant is new');
}

function diffQueues(before: LayoutsFile, after: LayoutsFile, changes: Changes): void {
  const { both, removed, added } = pair(before.queues, after.queues, (each) => each.name);
  for (const [old, now] of both) {
    changes.value(now.name, 'the queue index', old.index, now.index);
    changes.value(now.name, 'more queues of the role', old.repeats, now.repeats, old.repeats);
  }
  for (const each of removed) changes.breaking(each.name, 'the queue was removed');
  for (const each of added) changes.compatible(each.name, 'the queue is new');
}

function diffEnumeration(old: Enumeration, now: Enumeration, changes: Changes): void {
  changes.value(now.name, 'the type', old.type, now.type);
  changes.value(now.name, 'the form', old.form, now.form);
  changes.value(now.name, 'open', old.open, now.open, old.open);
  const { both, removed, added } = pair(old.members, now.members, (each) => each.value);
  for (const [before, after] of both) {
    changes.value(`${now.name}.${after.name}`, 'the name', before.name, after.name, false);
    changes.value(
      `${now.name}.${after.name}`,
      'the specification name',
      before.specName,
      after.specName,
      false,
    );
  }
  for (const each of removed) changes.breaking(`${now.name}.${each.name}`, `${each.value} was removed`);
  for (const each of added) {
    const place = `${now.name}.${each.name}`;
    if (old.open) changes.compatible(place, `${each.value} is new`);
    else changes.breaking(place, `${each.value} is new, and who knows the closed set of before refuses it`);
  }
}

/** Fields of a structure whose bytes changed, each by its place. */
function diffStruct(old: Struct, now: Struct, sameLayout: SameLayout, changes: Changes): void {
  changes.value(
    now.name,
    'the size',
    old.size ?? old.sizeOf ?? 'varying',
    now.size ?? now.sizeOf ?? 'varying',
  );
  const { both, removed, added } = pair(old.fields, now.fields, (field) => field.name);
  for (const [before, after] of both) {
    const place = `${now.name}.${after.name}`;
    changes.value(place, 'the offset', before.offset ?? before.offsetOf, after.offset ?? after.offsetOf);
    const isSame =
      before.type.kind === 'struct' && after.type.kind === 'struct' && sameLayout(before.type, after.type);
    changes.value(place, 'the type', typeText(before), typeText(after), !isSame);
    changes.value(place, 'the number', countText(before), countText(after));
    changes.value(place, 'the constant', before.mustBe, after.mustBe, after.mustBe !== null);
    changes.value(place, 'ignored', before.ignored, after.ignored, after.ignored);
  }
  for (const field of removed) {
    if (!field.ignored) changes.breaking(`${now.name}.${field.name}`, 'the field was removed');
  }
  for (const field of added) {
    if (field.ignored) continue;
    const place = `${now.name}.${field.name}`;
    if (wasPadding(old, field)) changes.compatible(place, 'the field is new, where padding was');
    else changes.breaking(place, 'the field is new');
  }
}

/** True when the field's bytes all lay in fields that were written as zero and not looked at. */
function wasPadding(old: Struct, field: Field): boolean {
  if (field.offset === null || field.size === null || field.mustBe !== null) return false;
  const covered = old.fields
    .filter((each) => each.ignored && each.offset !== null && each.size !== null)
    .reduce((sum, each) => sum + overlap(each.offset!, each.size!, field.offset!, field.size!), 0);
  return covered === field.size;
}

function overlap(start: number, size: number, otherStart: number, otherSize: number): number {
  return Math.max(0, Math.min(start + size, otherStart + otherSize) - Math.max(start, otherStart));
}

function diffNames(old: Struct, now: Struct, changes: Changes): void {
  for (const [index, field] of now.fields.entries()) {
    changes.value(`${now.name}.${field.name}`, 'the name', old.fields[index]!.name, field.name, false);
  }
}

/** The bound of a counted field is not part of its shape: more is compatible for whoever reads. */
function diffBounds(old: Struct, now: Struct, changes: Changes): void {
  for (const field of now.fields) {
    const before = old.fields.find((each) => each.name === field.name)?.count;
    const after = field.count;
    if (before && 'max' in before && after && 'max' in after) {
      changes.value(`${now.name}.${field.name}`, 'the limit', before.max, after.max, after.max < before.max);
    }
  }
}

/** What the bits of a field mean: the bytes are the same, what a peer reads in them is not. */
function diffMeanings(old: Struct, now: Struct, lookup: Lookup, changes: Changes): void {
  const partsText = ({ parts }: Field) =>
    parts.length === 0 ? 'none' : parts.map((part) => `${part.name} ${part.lowBit}+${part.width}`).join(', ');
  for (const field of now.fields) {
    const before = old.fields.find((each) => each.name === field.name);
    if (before === undefined) continue;
    const place = `${now.name}.${field.name}`;
    changes.value(place, 'its parts', partsText(before), partsText(field));
    // A closed enumeration makes values illegal that were legal before; an open one only gives names.
    const isClosed = field.enumeration !== null && !lookup.enumeration(field.enumeration).open;
    const name = ({ enumeration }: Field) => enumeration?.name ?? 'none';
    changes.value(place, 'its enumeration', name(before), name(field), isClosed);
  }
}

function typeText(field: Field): string {
  if (field.type.kind === 'scalar') return `${field.type.type} of ${scalarSize(field.type.type)} bytes`;
  return field.type.kind === 'struct' ? field.type.name : 'bytes';
}

function countText({ count }: Field): string {
  if (count === null) return 'one';
  switch (count.kind) {
    case 'value':
      return String(count.value);
    case 'field':
      return `as ${count.field} says`;
    case 'param':
      return `as ${count.param} says`;
    case 'rest':
      return 'the rest';
  }
}
