import type { Model } from '../model/types.js';
import { ALL_SCHEMAS, bannerLines } from './banner.js';
import type { Output } from './output.js';

/** Changes when the meaning of the model's keys changes, so that a reader can tell. */
export const MODEL_FORMAT = 1;

/** generated/model.json: the resolved model for other tools. What it holds is described in generator/model/types.ts. */
export function emitJson(model: Model): Output {
  const document = { $comment: bannerLines(ALL_SCHEMAS), format: MODEL_FORMAT, ...model };
  return { path: 'model.json', text: `${JSON.stringify(document, null, 1)}\n` };
}
