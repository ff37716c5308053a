import type { WriterFunction } from 'ts-morph';
import { docComment } from './documentation.js';

/** One member of an object literal. */
export interface Entry {
  readonly key: string;
  readonly value: string | WriterFunction;
  readonly doc?: string;
}

/** `export const name: type = { … } suffix;` with a comment above it and above its members. */
export function constObject(options: {
  readonly name: string;
  readonly doc: string;
  readonly entries: readonly Entry[];
  readonly type?: string;
  readonly suffix?: string;
}): WriterFunction {
  return (writer) => {
    writer.writeLine(docComment(options.doc));
    writer.write(`export const ${options.name}${options.type === undefined ? '' : `: ${options.type}`} = `);
    objectLiteral(options.entries)(writer);
    writer.write(options.suffix ?? '').write(';');
  };
}

/** `{ … }`, a member a line. */
export function objectLiteral(entries: readonly Entry[]): WriterFunction {
  return (writer) => writer.inlineBlock(() => members(entries)(writer));
}

/** The members alone. */
export function members(entries: readonly Entry[]): WriterFunction {
  return (writer) => {
    for (const entry of entries) {
      if (entry.doc !== undefined) writer.writeLine(docComment(entry.doc));
      writer.write(`${entry.key}: `);
      if (typeof entry.value === 'string') writer.write(entry.value);
      else entry.value(writer);
      writer.write(',').newLine();
    }
  };
}

/** A text literal in single quotes. */
export function quote(text: string): string {
  return `'${text.replaceAll('\\', '\\\\').replaceAll("'", "\\'").replaceAll('\n', '\\n')}'`;
}

/** `0x1f`, or `0x1fn` for a 64-bit word. */
export function hexadecimal(value: bigint, wide: boolean): string {
  return `0x${value.toString(16)}${wide ? 'n' : ''}`;
}
