#include "image_lock.h"

#include <fcntl.h>

#include <cerrno>

#include "image.h"

namespace vhost_user {
namespace {

constexpr off_t kByte = off_t{1} << 62;
constexpr off_t kDirectByte = kByte + 1;

struct flock OneByte(short type, off_t at) {
  struct flock lock {};
  lock.l_type = type;
  lock.l_whence = SEEK_SET;
  lock.l_start = at;
  lock.l_len = 1;
  return lock;
}

int32_t Share(int fd, off_t at) {
  auto lock = OneByte(F_RDLCK, at);
  return fcntl(fd, F_OFD_SETLK, &lock) == 0 ? 0 : errno;
}

/// What this description holds itself does not count.
int32_t Shared(int fd, off_t at) {
  auto lock = OneByte(F_WRLCK, at);
  if (fcntl(fd, F_OFD_GETLK, &lock) != 0) return -errno;
  return lock.l_type == F_UNLCK ? 0 : 1;
}

}  // namespace

int32_t LockImage(const Image& image) {
  if (image.read_only) return 0;
  int32_t error = Share(image.file.get(), kByte);
  return error == 0 && image.direct ? Share(image.direct.get(), kDirectByte) : error;
}

int32_t ImageLockedElsewhere(const Image& image) {
  int32_t shared = Shared(image.file.get(), kByte);
  return shared != 0 ? shared : Shared(image.direct ? image.direct.get() : image.file.get(), kDirectByte);
}

}  // namespace vhost_user
