import { posix } from 'node:path';
import type { LayoutRef, Model, SchemaFile } from '../../model/types.js';
import { ALL_SCHEMAS, markdownBanner, schemaPath } from '../banner.js';
import type { Output } from '../output.js';
import { featuresPage } from './features.js';
import { layoutsPage } from './layouts.js';
import { messagesPage } from './messages.js';
import { code, table } from './table.js';

/** One reference page for each schema file below docs/, and a page that lists them. */
export function emitMarkdown(model: Model): Output[] {
  return [...model.files.map(emitPage), contents(model)];
}

function emitPage(file: SchemaFile): Output {
  const link = (layout: LayoutRef) => linkFrom(file, layout);
  const page =
    file.kind === 'messages'
      ? messagesPage(file, link)
      : file.kind === 'features'
        ? featuresPage(file)
        : layoutsPage(file, link);
  return {
    path: `docs/${file.path}.md`,
    text: `${markdownBanner(schemaPath(file.path))}\n${page.trimEnd()}\n`,
  };
}

function contents(model: Model): Output {
  const rows = model.files.map((file) => [`[${file.path}](${file.path}.md)`, file.kind, file.doc]);
  const text = `# Reference\n\nOne page for each schema file.\n\n${table(['Page', 'Kind', 'What it describes'], rows)}`;
  return { path: 'docs/README.md', text: `${markdownBanner(ALL_SCHEMAS)}\n${text}` };
}

/** A scalar as code, a structure as a link to its section. */
function linkFrom(file: SchemaFile, layout: LayoutRef): string {
  if (layout.kind === 'scalar') return code(layout.type);
  const page = layout.file === file.path ? '' : posix.relative(posix.dirname(file.path), `${layout.file}.md`);
  return `[${layout.name}](${page}#${layout.name})`;
}
