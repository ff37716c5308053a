export { EntropyDevice } from './entropy-device.js';
