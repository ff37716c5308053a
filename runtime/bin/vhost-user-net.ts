#!/usr/bin/env node
import './early-signals.js';

await import('./net-program.js');
