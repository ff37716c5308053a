#!/usr/bin/env node
import './early-signals.js';

await import('./rng-program.js');
