import type {
  FrontendRequestHandler,
  FrontendRequestHandlers,
  FrontendRequestName,
} from '../../../../generated/vhost-user/frontend-requests.js';
import type { FdBundle } from '../../fd-bundle.js';
import type { BackendSession } from '../session.js';

/**
 * What serves one request: it acts on the session, takes the fds that it keeps (what is left is closed after it), and
 * gives the reply's payload where the request has one, with the fds that it attaches. It refuses by throwing; the answer
 * follows from that.
 */
export type Handler<Name extends FrontendRequestName> = FrontendRequestHandler<
  Name,
  BackendSession,
  FdBundle
>;

/** Handlers of some requests; together the groups make the map of all. */
export type Handlers<Name extends FrontendRequestName = FrontendRequestName> = Pick<
  FrontendRequestHandlers<BackendSession, FdBundle>,
  Name
>;
