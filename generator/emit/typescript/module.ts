import {
  IndentationText,
  NewLineKind,
  Project,
  QuoteKind,
  type StatementStructures,
  type WriterFunction,
} from 'ts-morph';
import { lineBanner } from '../banner.js';
import type { Output } from '../output.js';

export type Statement = string | WriterFunction | StatementStructures;

/** Path, below generated/, of the one module of the runtime that generated code may import. */
const WIRE = '../runtime/wire/index.js';

/**
 * A generated TypeScript module while it is put together: statements in order, imports collected on the way. Emitters
 * name what they use by `wire()` and `schema()`; nobody keeps a list of imports by hand.
 */
export class ModuleBuilder {
  readonly #path: string;
  readonly #statements: Statement[] = [];
  /** By module path below generated/, then by name; the flag says whether a type suffices. */
  readonly #imports = new Map<string, Map<string, boolean>>();

  /** `path`: path of the schema file, which the output mirrors. */
  constructor(path: string) {
    this.#path = path;
  }

  add(...statements: readonly Statement[]): void {
    this.#statements.push(...statements);
  }

  /** A value of runtime/wire. */
  wire(name: string): string {
    return this.#use(WIRE, name, false);
  }

  /** A type of runtime/wire. */
  wireType(name: string): string {
    return this.#use(WIRE, name, true);
  }

  /** A value generated from the schema file `path`. */
  schema(path: string, name: string): string {
    return path === this.#path ? name : this.#use(`${path}.js`, name, false);
  }

  /** A type generated from the schema file `path`. */
  schemaType(path: string, name: string): string {
    return path === this.#path ? name : this.#use(`${path}.js`, name, true);
  }

  build(banner: string): Output {
    const project = new Project({
      useInMemoryFileSystem: true,
      manipulationSettings: {
        indentationText: IndentationText.TwoSpaces,
        quoteKind: QuoteKind.Single,
        newLineKind: NewLineKind.LineFeed,
      },
    });
    const file = project.createSourceFile(`${this.#path}.ts`);
    if (this.#statements.length > 0) file.addStatements(this.#statements);
    // Only now have all bodies been written, and so named what they use.
    file.insertImportDeclarations(
      0,
      [...this.#imports]
        .sort(([left], [right]) => compare(left, right))
        .map(([target, names]) => importOf(relativePath(this.#path, target), names)),
    );
    return { path: `${this.#path}.ts`, text: separate(`${lineBanner(banner)}\n${file.getFullText()}`) };
  }

  #use(module: string, name: string, typeOnly: boolean): string {
    const names = this.#imports.get(module) ?? new Map<string, boolean>();
    names.set(name, typeOnly && (names.get(name) ?? true));
    this.#imports.set(module, names);
    return name;
  }
}

/** `import type` when nothing of it is a value: such an import leaves no trace at run time. */
function importOf(moduleSpecifier: string, names: ReadonlyMap<string, boolean>) {
  const isTypeOnly = [...names.values()].every(Boolean);
  return {
    moduleSpecifier,
    isTypeOnly,
    namedImports: [...names]
      .sort(([left], [right]) => compare(left, right))
      .map(([name, type]) => ({ name, isTypeOnly: type && !isTypeOnly })),
  };
}

function relativePath(from: string, to: string): string {
  const source = from.split('/').slice(0, -1);
  const target = to.split('/');
  let common = 0;
  while (common < source.length && source[common] === target[common]) common++;
  const up = source.slice(common).map(() => '..');
  const path = [...up, ...target.slice(common)].join('/');
  return path.startsWith('.') ? path : `./${path}`;
}

/** One empty line between statements that ts-morph sets close together, none at the end. */
function separate(text: string): string {
  return `${text
    .replace(/\n(export |\/\*\*)/g, '\n\n$1')
    .replace(/( \*\/)\n\n(export )/g, '$1\n$2')
    .replace(/\n{3,}/g, '\n\n')
    .trimEnd()}\n`;
}

function compare(left: string, right: string): number {
  return left < right ? -1 : left > right ? 1 : 0;
}
