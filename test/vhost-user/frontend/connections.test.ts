import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import type { Platform, SocketStream } from '../../../runtime/platform/platform.js';
import { ConnectingSource } from '../../../runtime/vhost-user/frontend/connections.js';

const test = suite('where connections to a back-end come from');

/** A platform on which somebody always listens, and its number of connections. */
function listening(): { platform: Platform; made: () => number } {
  let made = 0;
  const connect = (): Promise<SocketStream> => Promise.resolve({ number: made++ } as unknown as SocketStream);
  return { platform: { connect } as unknown as Platform, made: () => made };
}

test('a back-end that hangs up at once is not connected to again at once, but when the pause is over', async () => {
  const { platform, made } = listening();
  using source = new ConnectingSource(platform, '/x', { attempts: 1, delayMilliseconds: 60_000 }, true);
  await source.next();
  const reason = new Error('enough');
  const caller = new AbortController();
  const second = source.next(caller.signal).catch((error: unknown) => error);
  for (let turns = 0; turns < 100; turns++) await new Promise(setImmediate);
  assert.is(made(), 1);
  caller.abort(reason);
  assert.is(await second, reason);
  assert.is(made(), 1);
});

test('without a pause, or when it is over already, it connects at once', async () => {
  for (const delayMilliseconds of [0, 1]) {
    const { platform, made } = listening();
    using source = new ConnectingSource(platform, '/x', { attempts: 1, delayMilliseconds }, true);
    for (let i = 0; i < 5; i++) await source.next();
    assert.is(made(), 5);
  }
});

test.run();
