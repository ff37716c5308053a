import { VhostError } from '../../errors.js';
import { IotlbType } from '../../../generated/vhost-user/payloads.js';
import { ProtocolFeature } from '../../../generated/vhost-user/protocol-features.js';
import { OwnedFd } from '../fd-bundle.js';
import type { BackendRequestMap } from './backend-requests.js';
import type { Frontend } from './frontend.js';

/** What a front-end serves by itself. A handler map of the caller's comes before it; everything else is refused. */
export const defaultBackendHandlers: BackendRequestMap<Frontend> = {
  backendConfigChangeMsg: (frontend) => void frontend.emit('configurationChanged'),

  backendVringCall: (frontend, { index }) => vringOf(frontend, index).called(),

  backendVringErr: (frontend, { index }) => vringOf(frontend, index).failed(),

  backendVringHostNotifierMsg: (frontend, area, fds) =>
    lent(frontend.loans.notifiers).set(area, fds.take(), (ring) => frontend.vring(ring) !== undefined),

  backendSharedObjectAdd: (frontend, { uuid }) => lent(frontend.loans.objects).add(uuid, frontend),
  backendSharedObjectRemove: (frontend, { uuid }) => lent(frontend.loans.objects).remove(uuid, frontend),
  backendSharedObjectLookup: async (frontend, { uuid }, fds) => {
    const fd = await lent(frontend.loans.objects).lookUp(uuid);
    if (fd === null) throw new VhostError('ERR_VHOST_REFUSED', 'nobody exports such an object');
    fds.reply(new OwnedFd(frontend.platform, fd));
    return 0n;
  },

  backendShmemMap: (frontend, map, fds) => lent(frontend.loans.shmem).map(map, fds.take()!),
  backendShmemUnmap: (frontend, map) => lent(frontend.loans.shmem).unmap(map),

  /** Without an IOMMU of the caller's a whole region, at its guest address, answers a miss anywhere in it. */
  backendIotlbMsg: (frontend, { iova, permission, type }) => {
    if (type !== IotlbType.miss) {
      throw new VhostError('ERR_VHOST_REFUSED', `IOTLB message of type ${type} at 0x${iova.toString(16)}`);
    }
    const found = frontend.iommu.translate(iova, permission);
    if (found === null) {
      throw new VhostError('ERR_VHOST_REFUSED', `nothing is mapped so at IOVA 0x${iova.toString(16)}`);
    }
    const gpa = (frontend.negotiated.protocol & ProtocolFeature.gpaAddresses) !== 0n;
    const userAddress = gpa ? frontend.memory.guestAddressOf(found.userAddress) : found.userAddress;
    // Not waited for: the back-end may fetch it only after it has the answer to its own message.
    frontend.iommu
      .update(frontend, { ...found, userAddress })
      .catch((error: unknown) => frontend.emit('trouble', error as VhostError));
  },
};

/** The feature may have been accepted for a handler of the caller's, which serves another part of it. */
function lent<Table>(table: Table | null): Table {
  if (table === null) throw new VhostError('ERR_VHOST_REFUSED', 'nobody serves it here');
  return table;
}

function vringOf(frontend: Frontend, index: number): { called(): void; failed(): void } {
  const vring = frontend.vring(index);
  if (vring === undefined) throw new VhostError('ERR_VHOST_PAYLOAD', `there is no ring ${index}`);
  return vring;
}
