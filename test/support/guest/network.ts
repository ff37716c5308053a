import * as assert from 'uvu/assert';
import { type GuestOptions, Guest } from './guest.js';
import { PATIENCE } from './processes.js';

/** Anything with a shell and a network card: a guest, or a network namespace of the host. */
export interface Machine {
  /** Runs a script that must succeed; gives its output without the last line break. */
  read(script: string, limit?: number): Promise<string>;
}

/** Bit numbers of the feature word. */
export const networkBits = {
  csum: 0,
  guestCsum: 1,
  mtu: 3,
  guestTso4: 7,
  hostTso4: 11,
  mrgRxbuf: 15,
  status: 16,
  mq: 22,
  eventIdx: 29,
  packed: 34,
} as const;

/** Properties of a card whose driver asks for no checksum and no segmentation, and takes none that is left to it. */
export const noOffloads: readonly string[] = [
  ...['csum=off', 'host_tso4=off', 'host_tso6=off', 'host_ecn=off'],
  ...['guest_csum=off', 'guest_tso4=off', 'guest_tso6=off', 'guest_ecn=off'],
];

export interface CardOptions {
  /** Last byte of the card's address, 02:00:00:00:00:xx, and of the guest's, 10.0.0.x and fd00::x. */
  readonly number: number;
  /** Further properties of virtio-net-pci, e.g. `packed=on`. */
  readonly properties?: readonly string[];
  readonly queuePairs?: number;
  /** QEMU listens on the socket, and waits there before the guest starts. */
  readonly server?: boolean;
}

/**
 * QEMU's arguments for a vhost-user network card. Without MSI-X: QEMU 7.2 takes it for granted that a vhost-user card has
 * KVM's interrupt routing then, and crashes under software emulation when the guest starts the card.
 */
export function networkCard(
  socket: string,
  { number, properties = [], queuePairs = 1, server = false }: CardOptions,
): string[] {
  const side = server ? 'server=on,wait=on' : 'reconnect=1';
  const card = [
    `mac=${macAddress(number)}`,
    'vectors=0',
    ...(queuePairs > 1 ? ['mq=on'] : []),
    ...properties,
  ];
  return [
    ...['-chardev', `socket,id=c0,path=${socket},${side}`],
    ...['-netdev', `vhost-user,id=net0,chardev=c0,queues=${queuePairs}`],
    ...['-device', `virtio-net-pci,id=card0,netdev=net0,${card.join(',')}`],
  ];
}

export function macAddress(number: number): string {
  return `02:00:00:00:00:${number.toString(16).padStart(2, '0')}`;
}

/** The address of guest `number`. */
export function ipAddress(number: number, version: 4 | 6 = 4): string {
  return version === 4 ? `10.0.0.${number}` : `fd00::${number.toString(16)}`;
}

/** Boots a guest whose only network card is served at the socket, and gives it its addresses. */
export async function bootWithCard(
  socket: string,
  card: CardOptions,
  options: Omit<GuestOptions, 'devices'> = {},
): Promise<Guest> {
  const guest = await Guest.boot({
    devices: networkCard(socket, card),
    cpus: card.queuePairs ?? 1,
    ...options,
  });
  try {
    await configureCard(guest, card.number);
    return guest;
  } catch (error) {
    await guest[Symbol.asyncDispose]();
    throw error;
  }
}

/** Gives a guest that has just booted its addresses and waits until it sees the carrier. */
export async function configureCard(guest: Guest, number: number): Promise<void> {
  // The address is used at once, without a look for others that have it.
  await guest.read(`
    echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
    ip link set eth0 up
    ip addr add ${ipAddress(number)}/24 dev eth0
    ip -6 addr add ${ipAddress(number, 6)}/64 dev eth0`);
  await carrierIs(guest, true);
}

/** Waits until the guest sees that its card has a link, or none. */
export async function carrierIs(guest: Guest, up: boolean): Promise<void> {
  await guest.read(
    `until [ "$(cat /sys/class/net/eth0/carrier)" = ${up ? 1 : 0} ]; do busybox usleep 20000; done`,
  );
}

/** Has a machine ping an address until it answers, then three times more, all of which must be answered. */
export async function ping(from: Machine, address: string, size = 56): Promise<void> {
  const command = `busybox ping -s ${size}`;
  const output = await from.read(`
    until ${command} -c 1 -W 1 ${address} > /dev/null; do :; done
    ${command} -c 3 -i 0.1 -W 5 ${address}`);
  assert.match(output, /3 packets transmitted, 3 packets received/, output);
}

const PORT = 5000;
let transfers = 0;

/** Moves `mib` MiB over one TCP connection and checks that what arrived is what was sent. */
export async function transfer(from: Machine, to: Machine, address: string, mib: number): Promise<void> {
  // Each MiB differs from the others by its number. The machines may share a folder.
  const name = `/tmp/vhost-user-transfer-${process.pid}-${transfers++}`;
  const listening = `:${PORT.toString(16).toUpperCase()} 0\\+:0000 0A`;
  // The receiver's input never ends: nc would take its end for that of the connection.
  await to.read(`
    mkfifo ${name}.idle
    (busybox nc -l -p ${PORT} 0<> ${name}.idle | md5sum > ${name}.sum; mv ${name}.sum ${name}.received) > /dev/null 2>&1 &
    until cat /proc/net/tcp /proc/net/tcp6 | grep -q '${listening}'; do busybox usleep 20000; done`);
  const sent = await from.read(
    `
    dd if=/dev/urandom of=${name}.piece bs=1M count=1 2> /dev/null
    mkfifo ${name}.copy
    md5sum < ${name}.copy > ${name}.sent &
    i=0
    while [ $i -lt ${mib} ]; do cat ${name}.piece; echo $i; i=$((i + 1)); done |
      tee ${name}.copy | busybox nc ${address} ${PORT}
    wait
    cat ${name}.sent
    rm ${name}.piece ${name}.copy ${name}.sent`,
    3 * PATIENCE,
  );
  const received = await to.read(`
    until [ -e ${name}.received ]; do busybox usleep 20000; done
    cat ${name}.received
    rm ${name}.received ${name}.idle`);
  assert.match(sent, /^[0-9a-f]{32}/);
  assert.is(received, sent, `${mib} MiB`);
}

/** The feature word that the driver of the guest's card accepted, by bit number. */
export async function acceptedFeatures(guest: Guest): Promise<(bit: number) => boolean> {
  const word = await guest.read('cat /sys/class/net/eth0/device/features');
  return (bit) => word[bit] === '1';
}
