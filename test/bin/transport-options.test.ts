import { suite } from 'uvu';
import * as assert from 'uvu/assert';
import { parseOptions } from '../../runtime/bin/option-table.js';
import { featuresOnRequest, transportOptions } from '../../runtime/bin/transport-options.js';
import { ProtocolFeature } from '../../generated/vhost-user/protocol-features.js';

const test = suite('transport options');

const asked = (...args: string[]): bigint => featuresOnRequest(parseOptions(transportOptions, args));

test('nothing is offered on request unless it is asked for', () => {
  assert.is(asked(), 0n);
});

test('--offer adds features one by one, --postcopy adds PAGEFAULT', () => {
  assert.is(asked('--offer=inband-notifications'), ProtocolFeature.inbandNotifications);
  assert.is(
    asked('--offer=gpa-addresses', '--offer', 'inband-notifications', '--postcopy'),
    ProtocolFeature.gpaAddresses | ProtocolFeature.inbandNotifications | ProtocolFeature.pagefault,
  );
});

test('--offer takes no feature that it does not know', () => {
  assert.throws(
    () => asked('--offer=xen-mmap'),
    (error: Error) => /"xen-mmap" is none of inband-notifications, gpa-addresses/.test(error.message),
  );
});

test.run();
