import type { FuzzKindFactory } from './kind.js';

/** Every kind by its name; loaded when it is asked for. What one input is stands in README.md. */
export const fuzzKinds: Readonly<Record<string, () => Promise<FuzzKindFactory>>> = {
  messages: async () => (await import('./messages/kind.js')).messagesKind,
  sessions: async () => (await import('./messages/kind.js')).sessionsKind,
  frontend: async () => (await import('./frontend/kind.js')).frontendKind,
  split: async () => (await import('./rings/device-kind.js')).splitDeviceKind,
  packed: async () => (await import('./rings/device-kind.js')).packedDeviceKind,
  'split-driver': async () => (await import('./rings/driver-kind.js')).splitDriverKind,
  'packed-driver': async () => (await import('./rings/driver-kind.js')).packedDriverKind,
};
