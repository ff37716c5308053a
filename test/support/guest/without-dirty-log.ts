/**
 * Runs one of our daemons with its dirty log switched off: it maps the log, acknowledges everything, and marks nothing. A
 * migration test that does not fail with it proves nothing. Arguments: the program's path, then its own.
 */
import { pathToFileURL } from 'node:url';
import { DirtyLog } from '../../../runtime/memory/dirty-log.js';

DirtyLog.prototype.mark = () => true;
const [program] = process.argv.splice(2, 1);
await import(pathToFileURL(program!).href);
