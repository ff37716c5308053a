import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { Random } from '../../support/random.js';
import { instants, Machine, takeOver, work, type Variant } from './lives.js';
import { watchStores } from './stores.js';

/**
 * A back-end dies between every two stores to ring and region, is started anew, dies between every two stores of that too,
 * and is started once more. INFLIGHT_SEEDS is the number of random runs of each variant.
 */
const SEEDS = Number(process.env['INFLIGHT_SEEDS'] ?? 1);

watchStores();

const test = suite('in-flight tracking, killed between every two stores');

const variants: Variant[] = [];
for (const inOrder of [false, true]) {
  for (const indirect of [false, true]) {
    variants.push({ format: 'split', size: 4, inOrder, indirect, start: 0 });
    variants.push({ format: 'split', size: 8, inOrder, indirect, start: 65530 });
    variants.push({ format: 'packed', size: 4, inOrder, indirect, start: 0 });
    variants.push({ format: 'packed', size: 7, inOrder, indirect, start: 5 });
    variants.push({ format: 'packed', size: 5, inOrder, indirect, start: -3 });
  }
}

for (const variant of variants) {
  const { format, size, start, inOrder, indirect } = variant;
  const name = `${format} of ${size} from ${start}${inOrder ? ', IN_ORDER' : ''}${indirect ? ', indirect' : ''}`;
  test(`packed 45, trap of SPDK#3766: ${name}`, () => {
    let first = 0;
    let second = 0;
    for (let seed = 0; seed < SEEDS; seed++) {
      const machine = new Machine(variant);
      const deaths = instants(machine, () => work(machine, new Random(seed), SEEDS > 1 ? 30 : 20));
      first += deaths.length;
      for (const [i, death] of deaths.entries()) {
        for (const busy of [false, true]) {
          machine.goTo(death);
          const where = `seed ${seed}, death ${i}, ${busy ? 'busy' : 'idle'} driver`;
          const random = new Random(seed + i);
          // Some of the lives that took over are cut at every one of their stores in turn; with more seeds, more of them.
          if ((i + seed) % (SEEDS > 1 ? 7 : 40) !== 0) {
            attempt(where, () => takeOver(machine, random, busy));
            continue;
          }
          const again = attempt(where, () => instants(machine, () => takeOver(machine, random, busy)));
          second += again.length;
          for (const [k, next] of again.entries()) {
            machine.goTo(next);
            attempt(`${where}, then ${k}`, () => takeOver(machine, new Random(k), !busy));
          }
        }
      }
    }
    assert.ok(first > 40 && second > 40, `${first} and ${second} deaths`);
  });
}

function attempt<Result>(where: string, action: () => Result): Result {
  try {
    return action();
  } catch (error) {
    throw new Error(`${where}: ${error instanceof Error ? error.message : String(error)}`, { cause: error });
  }
}

test.run();
