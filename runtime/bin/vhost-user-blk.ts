#!/usr/bin/env node
import './early-signals.js';

await import('./blk-program.js');
