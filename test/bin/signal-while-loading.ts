import { register } from 'node:module';

// For a test, loaded before a program: a signal comes while the program is being loaded, which then never ends.
const hooks = `
export async function load(url, context, next) {
  if (url.endsWith('/runtime/bin/program.js')) {
    process.kill(process.pid, '${process.env['SIGNAL_WHILE_LOADING'] ?? 'SIGTERM'}');
    await new Promise((resolve) => setTimeout(resolve, 2 ** 31 - 1));
  }
  return next(url, context);
}`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
