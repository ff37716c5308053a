import { VhostError, type VhostUserError } from '../../errors.js';
import type { Platform } from '../../platform/platform.js';
import {
  backendRequests,
  type BackendRequestName,
  type BackendRequests,
} from '../../../generated/vhost-user/backend-requests.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import type { OwnedFd } from '../fd-bundle.js';
import type { NegotiatedFeatures } from '../negotiated-features.js';
import { Notice } from '../notice.js';
import { BackendChannel, type BackendRequestOptions } from './backend-channel.js';
import type { SessionLimits } from './session-limits.js';

export interface OutgoingContext {
  readonly platform: Platform;
  readonly features: NegotiatedFeatures;
  readonly limits: Pick<Required<SessionLimits>, 'maxPayload' | 'messageFds' | 'unansweredRequests'>;
  /** Every ring is stopped: the device is suspended and sends nothing. */
  readonly suspended: () => boolean;
  /** The ring was started and is not stopped yet. */
  readonly runs: (ring: number) => boolean;
  readonly log: (level: 'warn', message: string, fields: Record<string, unknown>) => void;
}

const IN_BAND = { call: 'backendVringCall', err: 'backendVringErr' } as const;

/**
 * What a session has to say of its own accord, over whichever channel there is at the moment. Notices wait for a channel
 * and for a running ring; a request fails when it cannot be sent now.
 */
export class OutgoingRequests implements Disposable {
  readonly #context: OutgoingContext;
  #channel: BackendChannel | null = null;
  #heldBack = false;
  readonly #configurationChange: Notice;
  /** By ring. */
  readonly #inband = { call: new Map<number, Notice>(), err: new Map<number, Notice>() };

  constructor(context: OutgoingContext) {
    this.#context = context;
    this.#configurationChange = new Notice(
      () => (context.suspended() ? null : this.#notify('backendConfigChangeMsg', undefined)),
      (error) => this.#notTold(error),
    );
  }

  /** null while there is none, or it has ended. */
  get channel(): BackendChannel | null {
    return this.#channel === null || this.#channel.closed ? null : this.#channel;
  }

  /** SET_BACKEND_REQ_FD: takes the fd over. A channel that was there before is closed, and what waits on it fails. */
  open(fd: OwnedFd): void {
    const { platform, limits, features } = this.#context;
    const socket = platform.adoptSocket(fd.fd);
    fd.release();
    if (socket.kind === 'listener') {
      socket.close();
      throw new VhostError('ERR_VHOST_FDS', 'expected a connected socket, got a listening one');
    }
    this.#channel?.close();
    const onEnd = (error: VhostError): void => this.#trouble(error);
    this.#channel = new BackendChannel({
      platform,
      stream: socket,
      maxPayload: limits.maxPayload,
      maxFds: limits.messageFds,
      maxUnanswered: limits.unansweredRequests,
      features,
      onEnd,
    });
    this.retry();
  }

  /** The session ends. */
  close(): void {
    this.#channel?.close();
    this.#channel = null;
  }

  [Symbol.dispose](): void {
    this.close();
  }

  /** Tells what had to wait for a running ring or for a channel. */
  retry(): void {
    this.#heldBack = false;
    this.#configurationChange.retry();
    for (const notices of [this.#inband.call, this.#inband.err]) {
      for (const notice of notices.values()) notice.retry();
    }
  }

  configurationChanged(): void {
    if (this.#context.features.hasProtocol(ProtocolFeature.config | ProtocolFeature.backendReq)) {
      this.#configurationChange.tell();
    }
  }

  /** BACKEND_VRING_CALL or _ERR; nothing unless in-band notifications are negotiated. */
  signalInband(ring: number, what: 'call' | 'err'): void {
    if (!this.#context.features.hasProtocol(ProtocolFeature.inbandNotifications)) return;
    let notice = this.#inband[what].get(ring);
    if (notice === undefined) {
      notice = new Notice(
        () => (this.#context.runs(ring) ? this.#notify(IN_BAND[what], { index: ring, num: 0 }) : null),
        (error) => this.#notTold(error),
      );
      this.#inband[what].set(ring, notice);
    }
    notice.tell();
  }

  /** One request, see `BackendChannel.request`. Rejects with ERR_VHOST_STATE when nothing may be sent now. */
  async request<Name extends BackendRequestName>(
    name: Name,
    payload: BackendRequests[Name]['payload'],
    options: BackendRequestOptions = {},
  ): Promise<BackendRequests[Name]['reply']> {
    const request = backendRequests[name].specName;
    const refusal = this.#context.features.refusal(backendRequests[name].gate);
    if (refusal !== null) throw new VhostError('ERR_VHOST_GATE', refusal, { request });
    if (this.#context.suspended()) {
      throw new VhostError('ERR_VHOST_STATE', 'the device is suspended: every ring is stopped', { request });
    }
    if (this.channel === null) {
      throw new VhostError('ERR_VHOST_STATE', 'the front-end takes no requests: it opened no channel', {
        request,
      });
    }
    try {
      return await this.channel.request(name, payload, options);
    } finally {
      if (this.#heldBack) this.retry();
    }
  }

  #notify<Name extends BackendRequestName>(
    name: Name,
    payload: BackendRequests[Name]['payload'],
  ): Promise<unknown> | null {
    const { channel } = this;
    // Behind as many requests as may be unanswered a notice waits for one of them.
    this.#heldBack ||= channel?.full === true;
    return channel === null || channel.full ? null : channel.request(name, payload);
  }

  /** What was under way when a channel ended was perhaps not read: the next one is told again. Its end was logged. */
  #notTold(error: VhostUserError): boolean {
    if (error.code === 'ERR_VHOST_DISCONNECTED' || this.#channel?.closed === true) return true;
    this.#trouble(error);
    return false;
  }

  #trouble(error: VhostUserError): void {
    this.#context.log('warn', error.message, { code: error.code, error });
  }
}
