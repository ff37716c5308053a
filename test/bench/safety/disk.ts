import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { VringAddressFlag } from '../../../generated/vhost-user/payloads.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { VirtioFeature } from '../../../generated/virtio/features.js';
import { DIRTY_PAGE } from '../../../runtime/memory/dirty-log.js';
import { createLinuxPlatform } from '../../../runtime/platform/linux.js';
import { BlockClient, MockDriver } from '../../../runtime/testing/index.js';
import { daemonPath } from '../../support/guest/daemon.js';
import { Random } from '../../support/random.js';
import { repositoryRoot } from '../../support/repository.js';
import { BackendProcess } from '../blk/backend-process.js';
import { quantile, ratios, type Row, type Variant, VARIANTS } from './row.js';

const BLOCK_BYTES = 4096;
const DISK_BYTES = 64 << 20;
const DEPTH = 32;
const MEDIA = ['null', 'tmpfs'] as const;
const FORMATS = ['split', 'packed'] as const;
const NAMES = ['plain', ...VARIANTS] as const;

interface Contender {
  readonly name: 'plain' | Variant;
  readonly backend: BackendProcess;
  readonly driver: MockDriver;
  readonly disk: BlockClient;
}

/** 4 KiB random reads at depth 32 from a daemon of its own for each variant; the driver spins. */
export async function measureDisks(rounds: number, sampleSeconds: number): Promise<Row[]> {
  const rows: Row[] = [];
  for (const medium of MEDIA) {
    for (const format of FORMATS) {
      const folder = mkdtempSync('/dev/shm/vhost-user-bench-');
      const contenders: Contender[] = [];
      try {
        for (const name of NAMES) contenders.push(await start(name, medium, format, folder));
        rows.push(await measure(`${medium} reads`, format, contenders, rounds, sampleSeconds));
      } finally {
        for (const { driver, backend } of contenders) {
          driver.close();
          await backend[Symbol.asyncDispose]();
        }
        rmSync(folder, { recursive: true, force: true });
      }
    }
  }
  return rows;
}

async function measure(
  what: string,
  format: Row['format'],
  contenders: readonly Contender[],
  rounds: number,
  sampleSeconds: number,
): Promise<Row> {
  const random = new Random(DEPTH);
  const positions = Float64Array.from(
    { length: 8192 },
    () => random.below(DISK_BYTES / BLOCK_BYTES) * BLOCK_BYTES,
  );
  const options = { operation: 'read', positions, blockLength: BLOCK_BYTES, depth: DEPTH } as const;
  const run = async ({ disk }: Contender, requests: number): Promise<number> => {
    const result = await disk.run({ ...options, requests, poll: true, indirect: true });
    return (result.seconds / result.requests) * 1e9;
  };
  const requests = new Map<Contender, number>();
  for (const each of contenders) {
    await run(each, 5000);
    requests.set(each, Math.ceil((sampleSeconds * 1e9) / (await run(each, 20_000))));
  }
  const times = { plain: [], tracked: [], logged: [], both: [] } as Record<'plain' | Variant, number[]>;
  for (let round = 0; round < rounds; round++) {
    const order = contenders.map((_, i) => contenders[(i + round) % contenders.length]!);
    if (round % 2 === 1) order.reverse();
    for (const each of order) times[each.name].push(await run(each, requests.get(each)!));
  }
  const ratio = Object.fromEntries(
    VARIANTS.map((name) => [name, ratios(times[name], times.plain, 0)]),
  ) as Row['ratio'];
  return { what, format, plain: quantile(times.plain, 0.5), ratio };
}

async function start(
  name: 'plain' | Variant,
  medium: (typeof MEDIA)[number],
  format: Row['format'],
  folder: string,
): Promise<Contender> {
  const path = join(folder, `${name}.sock`);
  const image = join(folder, `${name}.img`);
  if (medium === 'tmpfs') writeFileSync(image, Buffer.alloc(DISK_BYTES, 0x5a));
  const program =
    medium === 'null'
      ? [join(repositoryRoot(), 'build/test/bench/blk/null-server.js'), path, String(DISK_BYTES)]
      : [daemonPath('vhost-user-blk'), `--socket-path=${path}`, `--blk-file=${image}`];
  const backend = await BackendProcess.start(process.execPath, program, path);
  const { mq, replyAck, config, logShmfd, inflightShmfd } = ProtocolFeature;
  const logs = name === 'logged' || name === 'both';
  const tracks = name === 'tracked' || name === 'both';
  const driver = await MockDriver.start({
    platform: createLinuxPlatform(),
    path,
    format,
    protocol: mq | replyAck | config | (logs ? logShmfd : 0n) | (tracks ? inflightShmfd : 0n),
    signal: AbortSignal.timeout(20_000),
  });
  const { protocol } = driver.frontend.negotiated;
  for (const [wanted, bit] of [
    [logs, logShmfd],
    [tracks, inflightShmfd],
  ] as const) {
    if (wanted !== ((protocol & bit) !== 0n))
      throw new Error(`${name}: negotiated 0x${protocol.toString(16)}`);
  }
  if (logs) await beginLogging(driver);
  return { name, backend, driver, disk: new BlockClient(driver.queues[0]!) };
}

/** As QEMU does at the beginning of a migration: a log, the rings' addresses with the flag, then LOG_ALL. */
async function beginLogging({ platform, frontend, ram }: MockDriver): Promise<void> {
  const end = Math.max(
    ...ram.regions.map(({ region: { description } }) => Number(description.guestAddress + description.size)),
  );
  const size = BigInt(Math.ceil(end / DIRTY_PAGE / 8));
  const fd = platform.createSharedMemory('log', size);
  await frontend.request('setLogBase', { size, offset: 0n }, { fds: [fd] });
  platform.closeFd(fd);
  const { areas } = frontend.vring(0)!.setup!;
  await frontend.request('setVringAddr', {
    index: 0,
    flags: VringAddressFlag.log,
    descriptor: ram.userAddress(areas.descriptor),
    used: ram.userAddress(areas.device),
    available: ram.userAddress(areas.driver),
    log: ram.guestAddress(areas.device),
  });
  await frontend.request('setFeatures', frontend.negotiated.features | VirtioFeature.vhostLogAll);
}
