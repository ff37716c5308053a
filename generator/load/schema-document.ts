import {
  isAlias,
  isCollection,
  isMap,
  isNode,
  isPair,
  isScalar,
  LineCounter,
  parseAllDocuments,
  visit,
  type Document,
  type ParsedNode,
} from 'yaml';
import type { Diagnostic } from './diagnostic.js';
import type { LoadErrorCode } from './load-errors.js';

/** Keys and indexes from the root of a document to a node. */
export type NodePath = readonly (string | number)[];

/** One parsed YAML file that can say where each of its nodes stands. */
export class SchemaDocument {
  /** Name for diagnostics. */
  readonly file: string;
  /** Plain data. */
  readonly data: unknown;
  readonly #document: Document.Parsed<ParsedNode>;
  readonly #lines: LineCounter;

  private constructor(file: string, document: Document.Parsed<ParsedNode>, lines: LineCounter) {
    this.file = file;
    this.#document = document;
    this.#lines = lines;
    this.data = document.toJS();
  }

  /** Parses `text`. The document is null if `diagnostics` has anything. */
  static parse(file: string, text: string): { document: SchemaDocument | null; diagnostics: Diagnostic[] } {
    const lines = new LineCounter();
    const parsed = parseAllDocuments(text, { lineCounter: lines, version: '1.2', stringKeys: true });
    const diagnostics: Diagnostic[] = [];
    const report = (offset: number, code: LoadErrorCode, message: string): void => {
      const { line, col } = lines.linePos(offset);
      diagnostics.push({ file, line, column: col, code, message });
    };
    if (text.includes('\ufffd')) report(text.indexOf('\ufffd'), 'yaml-syntax', 'the file is not UTF-8');
    if (!Array.isArray(parsed) || parsed.length === 0) {
      report(0, 'yaml-syntax', 'the file is empty');
      return { document: null, diagnostics };
    }
    for (const document of parsed) {
      for (const problem of [...document.errors, ...document.warnings]) {
        report(problem.pos[0], 'yaml-syntax', problem.message.split('\n')[0]!.replace(/ at line .*$/, ''));
      }
    }
    const [document, second] = parsed as Document.Parsed<ParsedNode>[];
    if (second !== undefined) report(second.range[0], 'yaml-feature', 'a second document starts here');
    if (diagnostics.length === 0) {
      reportFeatures(document!, report);
      reportRounded(document!, report);
    }
    if (diagnostics.length > 0) return { document: null, diagnostics };
    return { document: new SchemaDocument(file, document!, lines), diagnostics };
  }

  /** Where the value at `path` starts; the nearest node above it if there is none. */
  valuePosition(path: NodePath): { line: number; column: number } {
    for (let length = path.length; length > 0; length--) {
      const node = this.#document.getIn(path.slice(0, length), true);
      if (isNode(node) && node.range) return this.#position(node.range[0]);
    }
    return this.#position(this.#document.contents?.range?.[0] ?? 0);
  }

  /** Where the last key of `path` stands; the value's place for an element of a list. */
  keyPosition(path: NodePath): { line: number; column: number } {
    const parent =
      path.length === 1 ? this.#document.contents : this.#document.getIn(path.slice(0, -1), true);
    if (isMap(parent)) {
      const pair = parent.items.find((item) => isScalar(item.key) && item.key.value === path.at(-1));
      if (pair && isScalar(pair.key) && pair.key.range) return this.#position(pair.key.range[0]);
    }
    return this.valuePosition(path);
  }

  /** Every map of the document with the keys in the order they are written. */
  *maps(): Generator<{ path: NodePath; keys: readonly string[] }> {
    yield* mapsBelow(this.#document.contents, []);
  }

  #position(offset: number): { line: number; column: number } {
    const { line, col } = this.#lines.linePos(offset);
    return { line, column: col };
  }
}

function* mapsBelow(node: unknown, path: NodePath): Generator<{ path: NodePath; keys: readonly string[] }> {
  if (!isCollection(node)) return;
  if (isMap(node))
    yield { path, keys: node.items.map((item) => String(isScalar(item.key) ? item.key.value : item.key)) };
  for (const [index, item] of node.items.entries()) {
    if (isPair(item))
      yield* mapsBelow(item.value, [...path, isScalar(item.key) ? String(item.key.value) : index]);
    else yield* mapsBelow(item, [...path, index]);
  }
}

function reportFeatures(
  document: Document.Parsed<ParsedNode>,
  report: (offset: number, code: LoadErrorCode, message: string) => void,
): void {
  visit(document, {
    Node(_key, node) {
      const offset = node.range?.[0] ?? 0;
      if (isAlias(node)) report(offset, 'yaml-feature', `aliases are not used here: *${node.source}`);
      else if (node.anchor) report(offset, 'yaml-feature', `anchors are not used here: &${node.anchor}`);
      else if (node.tag) report(offset, 'yaml-feature', `tags are not used here: ${node.tag}`);
    },
  });
}

/** Above 2^53 a number in the text is not the number that is read. */
function reportRounded(
  document: Document.Parsed<ParsedNode>,
  report: (offset: number, code: LoadErrorCode, message: string) => void,
): void {
  visit(document, {
    Scalar(_key, node) {
      if (typeof node.value !== 'number' || Math.abs(node.value) <= Number.MAX_SAFE_INTEGER) return;
      report(
        node.range?.[0] ?? 0,
        'wrong-value',
        `${node.source} is above 2^53 - 1, the largest number there is`,
      );
    },
  });
}
