/**
 * QEMU's arguments for the processor. Software emulation unless VHOST_USER_TEST_ACCEL=kvm: a guest boots in three seconds
 * with it, on every machine alike, while nested KVM is often there and then fails on single instructions of a kernel's boot.
 */
export function acceleratorArguments(): readonly string[] {
  return process.env['VHOST_USER_TEST_ACCEL'] === 'kvm'
    ? ['-accel', 'kvm', '-cpu', 'max,arch-capabilities=off']
    : ['-accel', 'tcg,thread=multi', '-cpu', 'max'];
}
