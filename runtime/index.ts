/**
 * The public entry: write a device, serve it.
 *
 * ```ts
 * import { ChainDevice, DeviceId, serve } from 'vhost-user';
 * using backend = serve(new MyDevice(), { socketPath: '/run/my.sock' });
 * await backend.finished;
 * ```
 */
import { createLinuxPlatform } from './platform/linux.js';
import type { Platform } from './platform/platform.js';
import type { VirtioDevice } from './device/virtio-device.js';
import { serveDevice, type BackendOptions, type VhostUserBackend } from './vhost-user/backend/server.js';

export interface ServeOptions extends Omit<BackendOptions, 'platform'> {
  /** What stands for the operating system; Linux by default. */
  readonly platform?: Platform;
}

/**
 * Serves a device to the front-ends that come over a Unix socket, one after the other, until the returned back-end is
 * closed or `options.signal` aborts. Throws OptionError or PlatformError when it cannot begin.
 */
export function serve(device: VirtioDevice, options: ServeOptions): VhostUserBackend {
  return serveDevice(device, { ...options, platform: options.platform ?? createLinuxPlatform() });
}

export * from './device/index.js';
export { VhostUserBackend, type BackendEvents, type BackendOptions } from './vhost-user/backend/server.js';
export { BackendSession, type Log, type SessionLimits } from './vhost-user/backend/session.js';
export type { MessageTrace } from './vhost-user/message-trace.js';
export { createLinuxPlatform, type LinuxPlatformOptions } from './platform/linux.js';
export type { Platform } from './platform/platform.js';
export * from './errors.js';
export { DeviceId } from '../generated/virtio/device-ids.js';
export { DeviceStatus } from '../generated/virtio/status.js';
export { VirtioFeature } from '../generated/virtio/features.js';
