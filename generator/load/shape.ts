import { Ajv2020, type ErrorObject, type ValidateFunction } from 'ajv/dist/2020.js';
import type { Diagnostic } from './diagnostic.js';
import type { LoadErrorCode } from './load-errors.js';
import type { NodePath, SchemaDocument } from './schema-document.js';

export const kinds = ['messages', 'features', 'layouts'] as const;
export type Kind = (typeof kinds)[number];

/** The compiled schemas of the schemas. */
export interface Shapes {
  readonly validators: Readonly<Record<Kind, ValidateFunction>>;
  readonly keyOrder: readonly string[];
}

/** Compiles meta/common, meta/messages, meta/features and meta/layouts. `shapes` is null if one is not in order. */
export function compileShapes(metas: ReadonlyMap<string, SchemaDocument>): {
  shapes: Shapes | null;
  diagnostics: Diagnostic[];
} {
  const diagnostics: Diagnostic[] = [];
  const ajv = new Ajv2020({
    allErrors: true,
    verbose: true,
    strict: true,
    strictTypes: false,
    strictRequired: false,
  });
  const fail = (name: string, message: string): void => {
    const file = metas.get(name)?.file ?? `meta/${name}.yaml`;
    diagnostics.push({ file, line: 1, column: 1, code: 'meta-schema' satisfies LoadErrorCode, message });
  };
  const attempt = <Result>(
    name: string,
    action: (schema: Record<string, unknown>) => Result,
  ): Result | null => {
    const document = metas.get(name);
    if (document === undefined) {
      fail(name, 'the file is missing');
      return null;
    }
    try {
      return action(document.data as Record<string, unknown>);
    } catch (error) {
      fail(name, (error as Error).message);
      return null;
    }
  };
  const keyOrder = attempt('common', (schema) => {
    ajv.addSchema(schema);
    return (schema as { $defs: { 'key-order': { enum: string[] } } }).$defs['key-order'].enum;
  });
  const validators = kinds.map((kind) => attempt(kind, (schema) => ajv.compile(schema)));
  if (diagnostics.length > 0) return { shapes: null, diagnostics };
  const [messages, features, layouts] = validators as ValidateFunction[];
  return {
    shapes: {
      keyOrder: keyOrder!,
      validators: { messages: messages!, features: features!, layouts: layouts! },
    },
    diagnostics,
  };
}

/** Checks the shape of one document: its kind, its keys, types and values, and the order of its keys. */
export function checkShape(document: SchemaDocument, shapes: Shapes): Diagnostic[] {
  const kind = (document.data as { kind?: unknown } | null)?.kind;
  if (!kinds.includes(kind as Kind)) {
    const position = document.valuePosition(['kind']);
    const message = `the file's kind must be one of ${kinds.join(', ')}`;
    return [{ file: document.file, ...position, code: 'unknown-kind' satisfies LoadErrorCode, message }];
  }
  const validate = shapes.validators[kind as Kind];
  if (validate(document.data)) return checkKeyOrder(document, shapes.keyOrder);
  const diagnostics = (validate.errors ?? []).flatMap((error) => shapeDiagnostic(document, error));
  // A map that fits neither branch of a choice gives the same complaint more than once.
  const seen = new Set<string>();
  return diagnostics.filter(({ line, column, code, message }) => {
    const key = `${line}:${column}:${code}:${message}`;
    return !seen.has(key) && seen.add(key);
  });
}

function shapeDiagnostic(document: SchemaDocument, error: ErrorObject): Diagnostic[] {
  // `if` only says that a branch failed; the branch's own error says what.
  if (error.keyword === 'if') return [];
  const path = parsePointer(error.instancePath, document.data);
  const at = (
    position: { line: number; column: number },
    code: LoadErrorCode,
    message: string,
  ): Diagnostic[] => [{ file: document.file, ...position, code, message }];
  const params = error.params as Record<string, unknown>;
  const subject = nameOf(path, error.data);
  switch (error.keyword) {
    case 'additionalProperties': {
      const key = String(params['additionalProperty']);
      const known = Object.keys((error.parentSchema as { properties?: object }).properties ?? {});
      const message = `'${key}' is not a key of ${subject}; the keys are ${known.join(', ')}`;
      return at(document.keyPosition([...path, key]), 'unknown-key', message);
    }
    case 'required':
    case 'dependentRequired':
      return at(
        document.valuePosition(path),
        'missing-key',
        `${subject} lacks '${String(params['missingProperty'])}'`,
      );
    case 'type':
      return at(document.valuePosition(path), 'wrong-type', `${subject} ${error.message}`);
    case 'enum': {
      const allowed = (params['allowedValues'] as unknown[]).join(', ');
      return at(document.valuePosition(path), 'wrong-value', `${subject} must be one of ${allowed}`);
    }
    case 'const':
      return at(
        document.valuePosition(path),
        'wrong-value',
        `${subject} must be ${String(params['allowedValue'])}`,
      );
    case 'false schema':
      return at(
        document.keyPosition(path),
        'unknown-key',
        `'${path.at(-1)}' does not go with the other keys here`,
      );
    default:
      return at(document.valuePosition(path), 'wrong-value', `${subject} ${error.message}`);
  }
}

/** What a message calls the node at `path`. */
function nameOf(path: NodePath, data: unknown): string {
  if (path.length === 0) return 'the file';
  if (typeof path.at(-1) === 'string') return `'${path.at(-1)}'`;
  const name = (data as { name?: unknown } | null)?.name;
  return typeof name === 'string' ? `'${name}'` : `element ${Number(path.at(-1)) + 1} of '${path.at(-2)}'`;
}

function checkKeyOrder(document: SchemaDocument, order: readonly string[]): Diagnostic[] {
  const diagnostics: Diagnostic[] = [];
  for (const { path, keys } of document.maps()) {
    for (let index = 1; index < keys.length; index++) {
      const [before, key] = [keys[index - 1]!, keys[index]!];
      if (order.indexOf(before) <= order.indexOf(key)) continue;
      const message = `'${key}' stands before '${before}'`;
      diagnostics.push({
        file: document.file,
        ...document.keyPosition([...path, key]),
        code: 'key-order',
        message,
      });
      break;
    }
  }
  return diagnostics;
}

/** A JSON pointer as keys and indexes of `data`. */
function parsePointer(pointer: string, data: unknown): NodePath {
  const path: (string | number)[] = [];
  let node = data;
  for (const token of pointer.split('/').slice(1)) {
    const text = token.replaceAll('~1', '/').replaceAll('~0', '~');
    const key = Array.isArray(node) ? Number(text) : text;
    path.push(key);
    node = (node as Record<string | number, unknown>)[key];
  }
  return path;
}
