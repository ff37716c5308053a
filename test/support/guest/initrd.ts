import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir, userInfo } from 'node:os';
import { basename, dirname, join } from 'node:path';
import { type GuestParts, moduleFiles } from './debian.js';

const modules = ['virtio_pci', 'virtio_blk', 'virtio_net', 'virtio-rng'];

/** On the console as soon as the guest's kernel is up, and before it has any driver for our devices. */
export const INIT_RUNS = 'the first program runs';

/** The guest's first program. It inherits what scripts leave running, and reaps it. */
const init = `#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /run /tmp
/bin/busybox --install -s /bin
export PATH=/usr/sbin:/usr/bin:/sbin:/bin
echo "${INIT_RUNS}"
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
while read -r module; do insmod "/modules/$module" || echo "insmod $module failed"; done < /modules/order
stty -F /dev/ttyS1 115200 raw -echo
sh /shell
echo "the shell lost its port"
`;

/**
 * The second serial port carries a shell without prompt or echo: each line in is `id base64-of-a-script`; each line out is
 * `@id status base64-of-stdout base64-of-stderr`. `@ready` says that it listens. It is not the first program: when a child
 * ends, busybox begins a `read` that is under way again, without the bytes it has, and the orphans of scripts end at any time.
 */
const shell = `
exec 3<>/dev/ttyS1
echo "@ready - - -" >&3
while read -r id script <&3; do
  echo "$script" | base64 -d > /run/script
  sh /run/script < /dev/null > /run/out 2> /run/err 3<&-
  echo "@$id $? =$(base64 -w 0 < /run/out) =$(base64 -w 0 < /run/err)" >&3
done
`;

/** Builds the initrd, or finds the one built before from the same parts. Returns its path. */
export function buildInitrd(parts: GuestParts): string {
  const files = moduleFiles(parts.release, modules);
  const key = createHash('sha256')
    .update(JSON.stringify([parts, files, init, shell]))
    .digest('hex')
    .slice(0, 12);
  const cached = join(tmpdir(), `vhost-user-guest-${userInfo().uid}-${parts.release}-${key}.cpio`);
  // In a folder that everybody may write to, only our own file counts.
  if (existsSync(cached) && statSync(cached).uid === userInfo().uid) return cached;
  const work = mkdtempSync(join(tmpdir(), 'vhost-user-initrd-'));
  try {
    const root = join(work, 'root');
    place(parts.busybox, join(root, 'bin/busybox'), 0o755);
    place(parts.blkdiscard, join(root, 'usr/sbin/blkdiscard'), 0o755);
    for (const library of librariesOf(parts.blkdiscard)) place(library, join(root, library), 0o755);
    for (const file of files) placeModule(file, join(root, 'modules'));
    writeFileSync(join(root, 'modules/order'), files.map((file) => `${moduleFileName(file)}\n`).join(''));
    writeFileSync(join(root, 'init'), init, { mode: 0o755 });
    writeFileSync(join(root, 'shell'), shell);
    const names = execFileSync('find', ['.'], { cwd: root });
    const archive = execFileSync(parts.cpio, ['-o', '-H', 'newc', '--quiet'], {
      cwd: root,
      input: names,
      maxBuffer: 1 << 30,
    });
    writeFileSync(join(work, 'initrd'), archive);
    // Whoever builds it at the same time makes the same file; the rename is atomic.
    renameSync(join(work, 'initrd'), cached);
  } finally {
    rmSync(work, { recursive: true, force: true });
  }
  return cached;
}

function place(from: string, to: string, mode: number): void {
  mkdirSync(dirname(to), { recursive: true });
  copyFileSync(from, to);
  chmodSync(to, mode);
}

function moduleFileName(path: string): string {
  return basename(path).replace(/\.xz$/, '');
}

function placeModule(path: string, folder: string): void {
  mkdirSync(folder, { recursive: true });
  const content = path.endsWith('.xz')
    ? execFileSync('xz', ['-dc', path], { maxBuffer: 1 << 30 })
    : readFileSync(path);
  writeFileSync(join(folder, moduleFileName(path)), content);
}

function librariesOf(program: string): string[] {
  const text = execFileSync('ldd', [program], { encoding: 'utf8' });
  return Array.from(text.matchAll(/(\/\S+) \(0x/g), (match) => match[1]!);
}
