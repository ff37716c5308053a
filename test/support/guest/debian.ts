import { accessSync, constants, existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';

/** What a tiny Linux guest is made of, all from Debian packages. */
export interface GuestParts {
  readonly qemu: string;
  readonly kernel: string;
  /** `uname -r` of the kernel. */
  readonly release: string;
  readonly busybox: string;
  readonly blkdiscard: string;
  readonly cpio: string;
}

/**
 * Finds the parts of a guest on this machine. Throws with the packages to install when any is missing: a test that needs a
 * guest fails then, it is never left out. `root` stands for the root of the file system.
 */
export function findGuestParts(root = '/'): GuestParts {
  const missing = new Set<string>();
  const program = (name: string, debianPackage: string): string => {
    const found = findProgram(name, root);
    if (found === null) missing.add(debianPackage);
    return found ?? '';
  };
  const kernel = findKernel(root);
  if (kernel === null) missing.add('linux-image-cloud-amd64');
  const parts: GuestParts = {
    qemu: program('qemu-system-x86_64', 'qemu-system-x86'),
    kernel: kernel?.path ?? '',
    release: kernel?.release ?? '',
    busybox: program('busybox', 'busybox-static'),
    blkdiscard: program('blkdiscard', 'util-linux'),
    cpio: program('cpio', 'cpio'),
  };
  program('qemu-storage-daemon', 'qemu-system-common');
  program('ip', 'iproute2');
  if (missing.size > 0) {
    throw new Error(
      `a guest cannot be built without these Debian packages: apt-get install ${[...missing].join(' ')}`,
    );
  }
  return parts;
}

/** The full path of a program on PATH or in the sbin folders. */
export function findProgram(name: string, root = '/'): string | null {
  const folders = [...(process.env['PATH'] ?? '').split(':'), '/usr/sbin', '/sbin', '/usr/bin'];
  return folders.map((folder) => join(root, folder, name)).find(isExecutable) ?? null;
}

function isExecutable(path: string): boolean {
  try {
    accessSync(path, constants.X_OK);
    return true;
  } catch {
    return false;
  }
}

/** The newest cloud kernel whose modules are there too. */
function findKernel(root: string): { path: string; release: string } | null {
  const folder = join(root, 'boot');
  if (!existsSync(folder)) return null;
  const kernels = readdirSync(folder)
    .map((name) => /^vmlinuz-(.+-cloud-amd64)$/.exec(name)?.[1])
    .filter((release) => release !== undefined)
    .filter((release) => existsSync(join(root, 'lib/modules', release, 'modules.dep')))
    .sort((a, b) => b.localeCompare(a, undefined, { numeric: true }));
  const release = kernels[0];
  return release === undefined ? null : { path: join(folder, `vmlinuz-${release}`), release };
}

/** Files of the named modules and of what they need, in the order in which they must be loaded; built-in ones left out. */
export function moduleFiles(release: string, names: readonly string[]): string[] {
  const folder = join('/lib/modules', release);
  const moduleName = (path: string): string => /([^/]+?)\.ko/.exec(path)![1]!.replaceAll('-', '_');
  const builtIn = new Set(lines(join(folder, 'modules.builtin')).map(moduleName));
  const needs = new Map(
    lines(join(folder, 'modules.dep')).map((line) => {
      const [path, rest] = line.split(':') as [string, string];
      return [moduleName(path), { path, needed: rest.split(' ').filter((each) => each !== '') }] as const;
    }),
  );
  const ordered = new Set<string>();
  for (const name of names.map((each) => each.replaceAll('-', '_'))) {
    if (builtIn.has(name)) continue;
    const entry = needs.get(name);
    if (entry === undefined) throw new Error(`kernel ${release} has no module ${name}`);
    // modules.dep names what must be loaded first last.
    for (const path of [...entry.needed].reverse()) ordered.add(join(folder, path));
    ordered.add(join(folder, entry.path));
  }
  return [...ordered];
}

function lines(path: string): string[] {
  return readFileSync(path, 'utf8')
    .split('\n')
    .filter((line) => line !== '');
}
