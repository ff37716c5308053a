#pragma once

#include <cstdint>

namespace vhost_user {

struct Image;

/// A mark on an image that lasts as long as anything may still be written through it: a shared lock of the
/// open file description. I/O that the kernel has taken keeps the description, and with it the lock, also
/// when its process was killed meanwhile.
///
/// Not flock: an exclusive flock is tried by giving the shared one up, and for that moment this process would
/// be invisible itself. An open file description lock can be asked about. It lies on a byte that no file has,
/// far from those which other programs lock (QEMU those from 100 on). A second description, for O_DIRECT, has
/// its own.
///
/// Takes the lock for an image that may be written. Returns 0 or an errno: another holds it exclusively, or
/// the file system has no such locks.
int32_t LockImage(const Image& image);
/// Whether another description of the image holds such a lock: 1, 0, or a negative errno.
int32_t ImageLockedElsewhere(const Image& image);

}  // namespace vhost_user
