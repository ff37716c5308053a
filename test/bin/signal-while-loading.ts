import { register } from 'node:module';

// For a test, loaded before a program: a signal comes while the program is being loaded, which then takes a moment longer. It
// has to go on: Node 24 stands still for it, and hears of signals afterwards.
const hooks = `
export async function load(url, context, next) {
  if (url.endsWith('/runtime/bin/program.js')) {
    process.kill(process.pid, '${process.env['SIGNAL_WHILE_LOADING'] ?? 'SIGTERM'}');
    await new Promise((resolve) => setTimeout(resolve, 300));
  }
  return next(url, context);
}`;
register(`data:text/javascript,${encodeURIComponent(hooks)}`);
