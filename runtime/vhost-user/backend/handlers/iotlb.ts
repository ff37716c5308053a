import type { Handlers } from './handler-map.js';

/** Translations of I/O virtual addresses. Answered always, also where no acknowledgement is asked for. */
export const iotlbHandlers: Handlers<'iotlbMsg'> = {
  iotlbMsg: (session, message) => session.iommu.receive(message),
};
