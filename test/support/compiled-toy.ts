import { execFileSync } from 'node:child_process';
import { cpSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { generate } from '../../generator/generate.js';
import type { Model } from '../../generator/model/types.js';
import { writeFolder } from '../../generator/write.js';
import { repositoryRoot } from './repository.js';

/** A folder that holds what the generator makes of a model and the part of the runtime that it stands on. */
export class CompiledToy {
  readonly folder = mkdtempSync(join(tmpdir(), 'generated-'));

  constructor(model: Model) {
    const root = repositoryRoot();
    writeFolder(join(this.folder, 'generated'), generate(model));
    cpSync(join(root, 'runtime/wire'), join(this.folder, 'runtime/wire'), { recursive: true });
    cpSync(join(root, 'runtime/errors.ts'), join(this.folder, 'runtime/errors.ts'));
    writeFileSync(join(this.folder, 'package.json'), '{ "type": "module" }');
    const compilerOptions = { rootDir: '.', outDir: 'build', types: [] };
    const config = {
      extends: join(root, 'tsconfig.json'),
      compilerOptions,
      include: ['generated', 'runtime', 'use.ts'],
    };
    writeFileSync(join(this.folder, 'tsconfig.json'), JSON.stringify(config));
  }

  /** Type-checks and compiles, with `use` as a program that uses the generated code; returns the compiler's complaints. */
  compile(use = ''): string {
    writeFileSync(join(this.folder, 'use.ts'), use);
    const compiler = join(repositoryRoot(), 'node_modules/typescript/bin/tsc');
    try {
      return execFileSync(process.execPath, [compiler, '-p', this.folder, '--pretty', 'false'], {
        encoding: 'utf8',
        stdio: 'pipe',
      });
    } catch (error) {
      return (error as { stdout: string }).stdout;
    }
  }

  /** The compiled flat index. */
  async load(): Promise<Record<string, unknown>> {
    return (await import(pathToFileURL(join(this.folder, 'build/generated/index.js')).href)) as Record<
      string,
      unknown
    >;
  }

  remove(): void {
    rmSync(this.folder, { recursive: true, force: true });
  }
}
