import { execFileSync } from 'node:child_process';
import { linkSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { test } from 'uvu';
import * as assert from 'uvu/assert';
import { daemonPath } from '../support/guest/daemon.js';
import { bootWithCard, carrierIs, ipAddress, macAddress } from '../support/guest/network.js';
import { eventually, RunningProgram, TemporaryFolder } from '../support/guest/processes.js';

test('--print-capabilities tells that it is a network device', () => {
  const output = execFileSync(process.execPath, [daemonPath('vhost-user-net'), '--print-capabilities']);
  assert.is((JSON.parse(output.toString()) as { type: string }).type, 'net');
});

/** Connects to QEMU, which listens, and drops what the guest sends. */
function connectDaemon(socket: string): RunningProgram {
  return new RunningProgram('vhost-user-net', process.execPath, [
    daemonPath('vhost-user-net'),
    `--socket-path=${socket}`,
    '--connect',
    '--port=sink',
  ]);
}

/** Ends the daemon, which tells then how many packets it has taken. */
async function stopAndCheck(daemon: RunningProgram): Promise<void> {
  assert.equal(await daemon.terminate(), { status: 0, signal: null });
  const taken = Number(/ transmitted=(\d+)/.exec(daemon.output)?.[1] ?? 0);
  assert.ok(taken >= 3, daemon.output);
}

/** Has the guest send packets that nobody answers. */
const sendSome = 'arp -s 10.0.0.9 02:00:00:00:00:09; ping -c 5 -i 0.05 -W 1 10.0.0.9 > /dev/null; true';

test('--connect: QEMU listens; either side is started again and the other one goes on', async () => {
  using folder = new TemporaryFolder();
  const socket = folder.file('net');
  // Both start at once: whoever comes first waits for the other.
  const first = connectDaemon(socket);
  await using _first = first;
  const guest = await bootWithCard(socket, { number: 1, server: true });
  await using _guest = guest;
  await guest.read(sendSome);
  await stopAndCheck(first);
  await carrierIs(guest, false);

  const second = connectDaemon(socket);
  await using _second = second;
  await carrierIs(guest, true);
  await guest.read(sendSome);
  await guest.qemu.terminate('SIGKILL');

  await using again = await bootWithCard(socket, { number: 1, server: true, properties: ['packed=on'] });
  await again.read(sendSome);
  await stopAndCheck(second);
});

interface Recorded {
  readonly destination: string;
  readonly source: string;
  readonly type: number;
  readonly bytes: Buffer;
}

/** Reads a capture file: pcap 2.4 of Ethernet. */
function readCapture(path: string): Recorded[] {
  const file = readFileSync(path);
  assert.is(file.readUInt32LE(0), 0xa1b2c3d4);
  assert.equal([file.readUInt16LE(4), file.readUInt16LE(6), file.readUInt32LE(20)], [2, 4, 1]);
  const records: Recorded[] = [];
  let last = 0;
  for (let at = 24; at < file.length;) {
    const time = file.readUInt32LE(at) + file.readUInt32LE(at + 4) / 1e6;
    assert.ok(time >= last && Math.abs(time - Date.now() / 1000) < 600, 'times are of now, and in order');
    last = time;
    const length = file.readUInt32LE(at + 8);
    assert.is(file.readUInt32LE(at + 12), length, 'the whole packet');
    const bytes = file.subarray(at + 16, at + 16 + length);
    assert.is(bytes.length, length);
    const mac = (from: number): string =>
      Array.from(bytes.subarray(from, from + 6), (byte) => byte.toString(16).padStart(2, '0')).join(':');
    records.push({ destination: mac(0), source: mac(6), type: bytes.readUInt16BE(12), bytes });
    at += 16 + length;
  }
  return records;
}

/** The Internet checksum of bytes that hold one: zero when it is right. */
function checksum(bytes: Buffer): number {
  let sum = 0;
  for (let i = 0; i < bytes.length; i += 2) sum += (bytes[i]! << 8) | (bytes[i + 1] ?? 0);
  while (sum > 0xffff) sum = (sum & 0xffff) + (sum >>> 16);
  return ~sum & 0xffff;
}

test('--fd: a listening socket from the parent; pcap:FILE records what the guest sends, checksums and all', async () => {
  using folder = new TemporaryFolder();
  const socket = folder.file('net');
  const capture = folder.file('capture');
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(folder.file('made'), resolve));
  const { fd } = (server as unknown as { _handle: { fd: number } })._handle;
  await using daemon = new RunningProgram(
    'vhost-user-net',
    process.execPath,
    [daemonPath('vhost-user-net'), '--fd=0', `--port=pcap:${capture}`],
    undefined,
    fd,
  );
  // The socket lives on in the daemon alone, under a name that closing it here does not remove.
  linkSync(folder.file('made'), socket);
  server.close();
  await eventually(
    () => daemon.output.includes('message=serving'),
    () => daemon.output,
  );
  await using guest = await bootWithCard(socket, { number: 7 });
  await guest.read(`
    arp -s ${ipAddress(9)} ${macAddress(9)}
    ping -c 3 -i 0.05 -W 1 -s 1000 ${ipAddress(9)} > /dev/null
    ping -c 1 -W 1 ${ipAddress(8)} > /dev/null
    echo hello | nc -w 1 ${ipAddress(9)} 4000
    true`);
  await guest.powerOff();
  assert.equal(await daemon.terminate(), { status: 0, signal: null });

  const records = readCapture(capture);
  assert.ok(records.every(({ source }) => source === macAddress(7)));
  const asked = records.filter(
    ({ type, destination }) => type === 0x0806 && destination === 'ff:ff:ff:ff:ff:ff',
  );
  assert.ok(asked.length > 0, 'who has 10.0.0.8?');
  const ip = records.filter(({ type, destination }) => type === 0x0800 && destination === macAddress(9));
  assert.ok(ip.every(({ bytes }) => checksum(bytes.subarray(14, 34)) === 0));
  const pings = ip.filter(({ bytes }) => bytes[23] === 1);
  assert.equal(
    pings.map(({ bytes }) => [bytes.length, checksum(bytes.subarray(34))]),
    Array(3).fill([14 + 20 + 8 + 1000, 0]),
  );
  // TCP's checksum is over a pseudo-header: both addresses, protocol 6, length.
  const connecting = ip.filter(({ bytes }) => bytes[23] === 6);
  assert.ok(connecting.length > 0, 'a connection is asked for');
  for (const { bytes } of connecting) {
    const segment = bytes.subarray(34, 14 + bytes.readUInt16BE(16));
    const pseudo = Buffer.from([...bytes.subarray(26, 34), 0, 6, segment.length >> 8, segment.length & 0xff]);
    assert.is(checksum(Buffer.concat([pseudo, segment])), 0);
  }
});

test.run();
