import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import * as assert from 'uvu/assert';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { Random } from '../../support/random.js';
import { count, type FuzzKind, scattered } from '../kind.js';
import { MessageSequence } from './sequence.js';
import { FakeBackdrop, LinuxBackdrop, World } from './world.js';

/** Messages to a back-end on a platform in memory. One input is one message. */
export function messagesKind(): FuzzKind {
  const reached: Record<string, number> = {};
  const options = {
    path: '/fuzz.sock',
    messages: 150,
    sessions: 2,
    withhold: 0n,
    patience: { turns: 3000, milliseconds: 0 },
  };
  return {
    reached,
    play(seed) {
      const random = new Random(scattered(seed));
      return MessageSequence.play(random, new World(new FakeBackdrop(), random), options, reached);
    },
  };
}

/** Sequences between two looks at all mappings. */
const LOOK_EVERY = 256;

/** Short malformed sessions over real sockets, fds and mappings. One input is one session. */
export function sessionsKind(): FuzzKind {
  const reached: Record<string, number> = {};
  const folder = mkdtempSync(join(tmpdir(), 'vhost-user-fuzz-'));
  process.on('exit', () => rmSync(folder, { recursive: true, force: true }));
  const backdrop = new LinuxBackdrop();
  const options = {
    path: join(folder, 'fuzz.sock'),
    messages: 40,
    sessions: 8,
    // The thread that faults is the one that would have to serve the fault.
    withhold: ProtocolFeature.pagefault,
    patience: { turns: 3000, milliseconds: 20_000 },
  };
  const before = backdrop.mappings;
  let sequences = 0;
  const check = (): void => assert.is(backdrop.mappings, before, 'mappings of shared memory');
  return {
    reached,
    check,
    async play(seed) {
      const random = new Random(scattered(seed));
      const messages = await MessageSequence.play(random, new World(backdrop, random), options, reached);
      count(reached, 'messages', messages);
      if (++sequences % LOOK_EVERY === 0) check();
      return options.sessions;
    },
  };
}
