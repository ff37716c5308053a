/**
 * What signals do while a program is being loaded, which takes longer than all else that it does before it serves. Nothing is
 * open then, so whoever asks for the end gets it at once, and in good order: a supervisor that starts and stops a back-end in
 * one breath is not to read of a death by signal. SIGHUP asks to look at what was not looked at yet. The programs import this
 * before anything else, and all else only afterwards.
 */
const early = {
  SIGTERM: () => process.exit(0),
  SIGINT: () => process.exit(0),
  SIGHUP: () => undefined,
} as const;

for (const [signal, listener] of Object.entries(early)) process.on(signal, listener);

/** The program has a listener of its own for this signal. */
export function takenOver(signal: keyof typeof early): void {
  process.off(signal, early[signal]);
}
