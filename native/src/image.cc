#include "image.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

#include <cerrno>
#include <fstream>

#include "fd.h"
#include "image_lock.h"
#include "javascript.h"

namespace vhost_user {
namespace {

UniqueFd OpenPath(const std::string& path, int flags) {
  int fd;
  do {
    // O_NONBLOCK: opening a FIFO by mistake must not wait for its other end.
    fd = open(path.c_str(), flags | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
  } while (fd < 0 && errno == EINTR);
  UniqueFd opened(Check("open", fd));
  Check("fcntl", fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) & ~O_NONBLOCK));
  return opened;
}

bool DeviceDiscards(dev_t device) {
  std::string node = "/sys/dev/block/" + std::to_string(major(device)) + ":" + std::to_string(minor(device));
  for (const char* place :
       {"/queue/discard_max_bytes", "/../queue/discard_max_bytes"}) {  // a disk, a partition
    uint64_t most = 0;
    if (std::ifstream(node + place) >> most) return most > 0;
  }
  return false;
}

/// Whether the file system can punch holes. Tried behind the end of the file, where there is nothing to lose.
bool FileDiscards(int fd, uint64_t size) {
  auto behind = static_cast<off_t>((size + 0xffff) / 0x10000 * 0x10000);
  return fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, behind, 0x10000) == 0;
}

}  // namespace

Image Image::Open(const std::string& path, bool read_only, bool direct) {
  Image image{};
  int access = read_only ? O_RDONLY : O_RDWR;
  image.file = OpenPath(path, access);
  struct stat file;
  Check("fstat", fstat(image.file.get(), &file));
  bool device = S_ISBLK(file.st_mode);
  if (S_ISDIR(file.st_mode)) Fail("open", EISDIR);
  if (!device && !S_ISREG(file.st_mode)) Fail("open", ENOTBLK);
  uint64_t size = FileSize(image.file.get());
  image.block_size = 512;
  int sector = 0;
  if (device && ioctl(image.file.get(), BLKSSZGET, &sector) == 0 && sector > 0) image.block_size = sector;
  // The kernel opens a read-only device for writing all the same, and fails every write to it.
  int locked = 0;
  if (device && !read_only && ioctl(image.file.get(), BLKROGET, &locked) == 0 && locked != 0)
    Fail("open", EROFS);
  image.read_only = read_only;
  // A block device's node lies in devtmpfs, its data does not.
  image.in_memory = !device && IsMemoryFileSystem(image.file.get());
  image.can_discard =
      !read_only && (device ? DeviceDiscards(file.st_rdev) : FileDiscards(image.file.get(), size));
  if (direct) image.direct = OpenPath(path, access | O_DIRECT);
  image.lock_error = LockImage(image);
  return image;
}

}  // namespace vhost_user
