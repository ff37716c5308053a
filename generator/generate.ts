import { emitC } from './emit/c/index.js';
import { emitJson } from './emit/json.js';
import { emitMarkdown } from './emit/markdown/index.js';
import type { Output } from './emit/output.js';
import { emitTypeScript } from './emit/typescript/index.js';
import type { Model } from './model/types.js';

/** Everything that is generated from a model, sorted by path. Pure. */
export function generate(model: Model): Output[] {
  const outputs = [...emitTypeScript(model), ...emitC(model), emitJson(model), ...emitMarkdown(model)];
  return outputs.sort((left, right) => (left.path < right.path ? -1 : left.path > right.path ? 1 : 0));
}
