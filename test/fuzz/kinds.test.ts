import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { fuzzKinds } from './kinds.js';
import { seedAt } from './kind.js';

/** A little of every kind, from fixed seeds: `npm run fuzz` does the same for as long as wanted. */
const test = suite('fuzz kinds');

/** Inputs a kind, and what has to come up among them for the draw to be worth something. */
const EXPECTED: Record<string, { inputs: number; reached: RegExp[] }> = {
  messages: {
    inputs: 20_000,
    reached: [
      /^chains$/,
      /^replies$/,
      /ERR_VHOST_FDS/,
      /ERR_VHOST_PAYLOAD/,
      /ERR_VHOST_HEADER/,
      /ring: ERR_VIRTQ/,
    ],
  },
  sessions: { inputs: 400, reached: [/^chains$/, /ERR_VHOST_FDS/, /ERR_VHOST_PAYLOAD/, /in good order/] },
  frontend: {
    inputs: 10_000,
    reached: [
      /start: done/,
      /transfer: ERR_VIRTQ/,
      /stop: done/,
      /ERR_VHOST_REPLY/,
      /ERR_VHOST_DISCONNECTED/,
    ],
  },
  split: { inputs: 4000, reached: [/model: good/, /ERR_VIRTQ_INDIRECT/, /ERR_VIRTQ_AVAILABLE_INDEX/] },
  packed: { inputs: 4000, reached: [/model: good/, /ERR_VIRTQ_INDIRECT/, /ERR_VIRTQ_ADDRESS/] },
  'split-driver': { inputs: 4000, reached: [/good/, /ERR_VIRTQ_USED/] },
  'packed-driver': { inputs: 4000, reached: [/good/, /ERR_VIRTQ_USED/] },
};

test('every kind is played here', () => {
  assert.equal(Object.keys(EXPECTED).sort(), Object.keys(fuzzKinds).sort());
});

for (const [name, { inputs, reached }] of Object.entries(EXPECTED)) {
  test(`${name}: ${inputs} inputs without a finding`, async () => {
    const kind = await (await fuzzKinds[name]!())();
    let played = 0;
    for (let step = 0; played < inputs; step++) {
      const seed = seedAt(0xc0ffee, step);
      try {
        played += await kind.play(seed);
      } catch (cause) {
        throw new Error(`npm run fuzz -- --kind=${name} --seed=${seed} --inputs=1`, { cause });
      }
    }
    await kind.check?.();
    for (const what of reached) {
      assert.ok(
        Object.entries(kind.reached).some(([key, times]) => what.test(key) && times > 0),
        `${String(what)} came up: ${Object.keys(kind.reached).join(', ')}`,
      );
    }
  });
}

test.run();
