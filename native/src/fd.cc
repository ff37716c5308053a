#include "fd.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>

#include "javascript.h"
#include "socket.h"

namespace vhost_user {

void SetCloseOnExec(int fd) {
  Check("fcntl", fcntl(fd, F_SETFD, FD_CLOEXEC));
}

bool IsMemoryFileSystem(int fd) {
  struct statfs system;
  Check("fstatfs", fstatfs(fd, &system));
  auto type = static_cast<unsigned long>(system.f_type);
  return type == TMPFS_MAGIC || type == RAMFS_MAGIC || type == HUGETLBFS_MAGIC;
}

uint64_t FileSize(int fd) {
  struct stat file;
  Check("fstat", fstat(fd, &file));
  if (S_ISREG(file.st_mode)) return static_cast<uint64_t>(file.st_size);
  if (!S_ISBLK(file.st_mode)) Fail("fstat", EINVAL);
  uint64_t size = 0;
  Check("ioctl(BLKGETSIZE64)", ioctl(fd, BLKGETSIZE64, &size));
  return size;
}

namespace {

/// Files without a type of their own all look alike to fstat; /proc says what they are.
const char* AnonymousKindOf(int fd) {
  char target[64];
  ssize_t length = readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), target, sizeof target);
  std::string name(target, std::max<ssize_t>(length, 0));
  if (name == "anon_inode:[eventfd]") return "eventfd";
  return name == "anon_inode:[userfaultfd]" ? "userfaultfd" : "other";
}

const char* KindOf(int fd) {
  struct stat file;
  Check("fstat", fstat(fd, &file));
  switch (file.st_mode & S_IFMT) {
    case S_IFSOCK:
      return "socket";
    case S_IFIFO:
      return "pipe";
    case S_IFBLK:
      return "block-device";
    case S_IFREG:
      return IsMemoryFileSystem(fd) ? "memory" : "file";
    default:
      return AnonymousKindOf(fd);
  }
}

/// fdKind(fd) -> string
Napi::Value Kind(const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), KindOf(IntArgument(info, 0)));
}

/// fdSize(fd) -> bigint
Napi::Value Size(const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), FileSize(IntArgument(info, 0)));
}

/// fdIdentity(fd) -> string
Napi::Value Identity(const Napi::CallbackInfo& info) {
  struct stat file;
  Check("fstat", fstat(IntArgument(info, 0), &file));
  return Napi::String::New(info.Env(), std::to_string(file.st_dev) + ":" + std::to_string(file.st_ino));
}

/// fdDuplicate(fd) -> fd
Napi::Value Duplicate(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), Check("fcntl", fcntl(IntArgument(info, 0), F_DUPFD_CLOEXEC, 0)));
}

/// fdClose(fd)
Napi::Value Close(const Napi::CallbackInfo& info) {
  // Linux has freed the number even when it reports EINTR; a second try could hit somebody else's file.
  if (close(IntArgument(info, 0)) != 0 && errno != EINTR) Fail("close");
  return info.Env().Undefined();
}

}  // namespace

void ExportFds(Napi::Object exports) {
  Export<Kind>(exports, "fdKind");
  Export<Size>(exports, "fdSize");
  Export<Identity>(exports, "fdIdentity");
  Export<Duplicate>(exports, "fdDuplicate");
  Export<Close>(exports, "fdClose");
}

}  // namespace vhost_user
