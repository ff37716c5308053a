import { test } from 'uvu';
import { testBlockMatrix } from '../support/guest/block-matrix.js';

testBlockMatrix('packed');

test.run();
