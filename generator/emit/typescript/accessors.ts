import type { Field, ScalarType, Struct } from '../../model/types.js';
import { camelCase, pascalCase } from '../../names.js';
import { elementSize, type Lookup, scalarSize } from '../lookup.js';
import { describe } from './documentation.js';
import type { Entry } from './literal.js';
import { type View, VIEWS } from './views.js';

/** The accessors of one field: get and set, for a list by element, for a struct the index of it. */
export function accessorsOf(lookup: Lookup, struct: Struct, field: Field, view: View): Entry[] {
  const place = placeOf(lookup, struct, field, view);
  const { type } = field;
  if (type.kind === 'bytes') return [];
  if (type.kind === 'struct') return [structIndex(field, place, view)];
  const name = camelCase(field.name);
  return [
    {
      key: name,
      doc: describe(field, meaning(field)),
      value: `(${[typed(view), ...place.parameters].join(', ')}): number => ${read(type.type, view, place)}`,
    },
    setter(lookup, struct, field, type.type, view),
    ...(field.access === 'plain' ? [] : orderedAccessors(struct, field, type.type)),
  ];
}

/**
 * A field that is narrower than the view is written through an array of its own width: rewriting the whole element would
 * undo what a peer writes beside it.
 */
function setter(lookup: Lookup, struct: Struct, field: Field, type: ScalarType, wide: View): Entry {
  const view = scalarSize(type) < wide.unit ? VIEWS[scalarSize(type) as 1 | 2] : wide;
  const place = placeOf(lookup, struct, field, view);
  const units = view === wide ? '' : ` ${unitText(view)}`;
  return {
    key: `set${pascalCase(field.name)}`,
    doc: `Sets \`${camelCase(field.name)}\`.${units}`,
    value: `(${[typed(view), ...place.parameters, 'value: number'].join(', ')}): void => ${write(type, view, place)}`,
  };
}

function typed(view: View): string {
  return `${view.name}: ${view.type}`;
}

function unitText(view: View): string {
  return `\`i\` is in units of ${view.unit} byte${view.unit === 1 ? '' : 's'}.`;
}

/** Where a field starts: an index expression in units of the view and, in a wider unit, the byte within it. */
interface Place {
  readonly parameters: readonly string[];
  /** Terms beside the constant. */
  readonly terms: readonly string[];
  /** Constant part, in bytes. */
  readonly bytes: number;
}

function placeOf(lookup: Lookup, struct: Struct, field: Field, view: View): Place {
  const parameters = ['i: number'];
  const terms = ['i'];
  let bytes = field.offset ?? 0;
  if (field.offsetOf !== null) {
    parameters.push(`${camelCase(field.offsetOf.param)}: number`);
    terms.push(scaled(camelCase(field.offsetOf.param), field.offsetOf.step, view.unit, struct, field));
    bytes = field.offsetOf.base;
  }
  if (field.count !== null && field.type.kind !== 'bytes') {
    const element = elementSize(lookup, field.type);
    if (element === null)
      throw new Error(`${struct.name}.${field.name}: elements of accessors have a fixed size`);
    parameters.push('n: number');
    terms.push(scaled('n', element, view.unit, struct, field));
  }
  const size = field.type.kind === 'scalar' ? scalarSize(field.type.type) : view.unit;
  if (field.type.kind !== 'bytes' && bytes % Math.min(size, view.unit) !== 0) {
    throw new Error(
      `${struct.name}.${field.name}: offset ${bytes} is not aligned, so it can have no accessor`,
    );
  }
  return { parameters, terms, bytes };
}

function scaled(term: string, step: number, unit: number, struct: Struct, field: Field): string {
  if (step % unit !== 0)
    throw new Error(`${struct.name}.${field.name}: ${step} bytes are not whole units of ${unit}`);
  return step === unit ? term : `${step / unit} * ${term}`;
}

function structIndex(field: Field, place: Place, view: View): Entry {
  const type = field.type as Extract<Field['type'], { kind: 'struct' }>;
  const each = field.count === null ? 'it' : 'element `n`';
  return {
    key: `${camelCase(field.name)}Index`,
    doc: describe(field, `Index of ${each}, for the accessors of \`${pascalCase(type.name)}\`.`),
    value: `(${place.parameters.join(', ')}): number => ${index(place, view.unit, 0)}`,
  };
}

/** `i + 2 + n`, moved by `more` units. */
function index(place: Place, unit: number, more: number): string {
  const constant = Math.floor(place.bytes / unit) + more;
  return [...place.terms, ...(constant === 0 ? [] : [String(constant)])].join(' + ');
}

function read(type: ScalarType, view: View, place: Place): string {
  const at = (more: number) => `${view.name}[${index(place, view.unit, more)}]!`;
  const size = scalarSize(type);
  const signed = type.startsWith('i');
  if (size === view.unit) return signed ? extend(at(0), size) : at(0);
  if (size < view.unit) {
    const shift = 8 * (place.bytes % view.unit);
    if (signed) return extend(shift === 0 ? at(0) : `${at(0)} >> ${shift}`, size);
    if (shift + 8 * size === 8 * view.unit) return `${at(0)} >>> ${shift}`;
    const mask = `0x${(2 ** (8 * size) - 1).toString(16)}`;
    return shift === 0 ? `${at(0)} & ${mask}` : `(${at(0)} >>> ${shift}) & ${mask}`;
  }
  if (size === 2 * view.unit && !signed) return `${at(1)} * ${2 ** (8 * view.unit)} + ${at(0)}`;
  throw new Error(`a ${type} in units of ${view.unit} bytes has no accessor of one small expression`);
}

function extend(value: string, size: number): string {
  const shift = 32 - 8 * size;
  return shift === 0
    ? `${value} | 0`
    : `(${value.includes(' ') ? `(${value})` : value} << ${shift}) >> ${shift}`;
}

/** `void` of an assignment: a discarded value is less bytecode than a returned one. */
function write(type: ScalarType, view: View, place: Place): string {
  const at = (more: number) => `${view.name}[${index(place, view.unit, more)}]`;
  if (scalarSize(type) === view.unit) return `void (${at(0)} = value)`;
  if (scalarSize(type) === 2 * view.unit && !type.startsWith('i')) {
    // A store into a typed array takes the value modulo its width, so the low half needs no masking.
    return `void ((${at(0)} = value), (${at(1)} = value / ${2 ** (8 * view.unit)}))`;
  }
  throw new Error(`a ${type} in units of ${view.unit} bytes has no accessor of one small expression`);
}

/** An index that one side publishes: besides the plain accessors, one ordered load and one ordered store. */
function orderedAccessors(struct: Struct, field: Field, type: ScalarType): Entry[] {
  const unit = scalarSize(type);
  if (unit > 4) throw new Error(`${struct.name}.${field.name}: only 8, 16 and 32 bits are read in order`);
  const view = VIEWS[unit as 1 | 2 | 4];
  if (field.offset === null || field.count !== null) {
    throw new Error(`${struct.name}.${field.name}: an ordered field stands alone at a fixed offset`);
  }
  const at = field.offset === 0 ? 'i' : `i + ${field.offset / unit}`;
  return [
    {
      key: `load${pascalCase(field.name)}`,
      doc: `Acquire: what its writer stored before is seen after. ${unitText(view)}`,
      value: `(${typed(view)}, i: number): number => Atomics.load(${view.name}, ${at})`,
    },
    {
      key: `store${pascalCase(field.name)}`,
      doc: `Release: what was stored before is seen by whoever loads this. ${unitText(view)}`,
      value: `(${typed(view)}, i: number, value: number): number => Atomics.store(${view.name}, ${at}, value)`,
    },
  ];
}

/** What the numbers of a field mean: its enumeration and its parts. */
function meaning(field: Field): string | null {
  const parts = field.parts.map((part) => {
    const high = part.lowBit + part.width - 1;
    return `${part.width === 1 ? `Bit ${high}` : `Bits ${part.lowBit}-${high}`}, ${camelCase(part.name)}: ${part.doc}`;
  });
  if (field.enumeration !== null) parts.unshift(`${'`'}${pascalCase(field.enumeration.name)}${'`'}.`);
  return parts.length === 0 ? null : parts.join(' ');
}
