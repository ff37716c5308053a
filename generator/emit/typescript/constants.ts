import { StructureKind, VariableDeclarationKind } from 'ts-morph';
import type { LayoutsFile } from '../../model/types.js';
import { camelCase, upperSnakeCase } from '../../names.js';
import { comment, describe } from './documentation.js';
import { constObject, objectLiteral, quote } from './literal.js';
import type { ModuleBuilder } from './module.js';

/** `export const MAX_MESSAGE_FDS = 8;` for every constant of a layouts file. */
export function emitConstants(module: ModuleBuilder, file: LayoutsFile): void {
  for (const constant of file.constants) {
    module.add({
      kind: StructureKind.VariableStatement,
      isExported: true,
      declarationKind: VariableDeclarationKind.Const,
      docs: [describe(constant)],
      declarations: [{ name: upperSnakeCase(constant.name), initializer: String(constant.value) }],
    });
  }
}

/** `export const blkQueues = { requests: { index: 0, repeats: true } }` for a device type. */
export function emitQueues(module: ModuleBuilder, file: LayoutsFile): void {
  if (file.queues.length === 0) return;
  module.add(
    constObject({
      name: `${camelCase(file.name)}Queues`,
      doc: comment([
        `Queues of the device type: index of the first of each role, and whether more of it may follow.`,
      ]),
      suffix: ' as const',
      entries: file.queues.map((queue) => ({
        key: camelCase(queue.name),
        doc: describe(queue),
        value: objectLiteral([
          { key: 'specName', value: quote(queue.specName) },
          { key: 'index', value: String(queue.index) },
          { key: 'repeats', value: String(queue.repeats) },
        ]),
      })),
    }),
  );
}
