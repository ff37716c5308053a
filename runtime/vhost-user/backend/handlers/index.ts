import type { FrontendRequestName } from '../../../../generated/vhost-user/frontend-requests.js';
import type { RequestRow } from '../../../wire/index.js';
import type { ErasedHandler } from '../request-dispatcher.js';
import type { BackendSession } from '../session.js';
import { configHandlers } from './config.js';
import { deviceStateHandlers } from './device-state.js';
import { featureHandlers } from './features.js';
import type { Handlers } from './handler-map.js';
import { inbandHandlers } from './inband.js';
import { logHandlers } from './log.js';
import { inflightHandlers } from './inflight.js';
import { iotlbHandlers } from './iotlb.js';
import { memoryHandlers } from './memory.js';
import { networkHandlers } from './network.js';
import { postcopyHandlers } from './postcopy.js';
import { refusedHandlers } from './refused.js';
import { sharedObjectHandlers } from './shared-objects.js';
import { statusHandlers } from './status.js';
import { vringHandlers } from './vrings.js';

/** Every request has a handler: a new row in the table is a compile error here until a group takes it. */
const handlers: Handlers = {
  ...featureHandlers,
  ...memoryHandlers,
  ...vringHandlers,
  ...inbandHandlers,
  ...logHandlers,
  ...deviceStateHandlers,
  ...configHandlers,
  ...statusHandlers,
  ...networkHandlers,
  ...inflightHandlers,
  ...postcopyHandlers,
  ...sharedObjectHandlers,
  ...iotlbHandlers,
  ...refusedHandlers,
};

/** The handler of a row, bound to a session. */
export function handlerOf(row: RequestRow, session: BackendSession): ErasedHandler {
  // The row's codec decoded the payload, so its type is the one that the handler of the same name asks for.
  const handler = handlers[row.name as FrontendRequestName] as (
    session: BackendSession,
    payload: unknown,
    fds: Parameters<ErasedHandler>[1],
  ) => unknown;
  return (payload, fds) => handler(session, payload, fds);
}
