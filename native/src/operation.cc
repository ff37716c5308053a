#include "operation.h"

#include <fcntl.h>
#include <linux/falloc.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <climits>

namespace vhost_user {
namespace {

constexpr int kUnsupported[] = {EOPNOTSUPP, ENOSYS, ENODEV, ENOTTY};

bool IsUnsupported(int error) {
  return std::find(std::begin(kUnsupported), std::end(kUnsupported), error) != std::end(kUnsupported);
}

/// Returns 0 or an errno.
int Allocate(const Operation& operation, int mode) {
  int result;
  do {
    result = fallocate(operation.fd, mode | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(operation.position),
                       static_cast<off_t>(operation.length));
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

int RangeRequest(const Operation& operation, unsigned long request) {
  uint64_t range[2] = {operation.position, operation.length};
  int result;
  do {
    result = ioctl(operation.fd, request, range);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

bool IsBlockDevice(int fd) {
  struct stat file;
  return fstat(fd, &file) == 0 && S_ISBLK(file.st_mode);
}

/// What a file system without any way of zeroing a range is left with.
int WriteZeroes(const Operation& operation) {
  alignas(4096) static const char zeroes[65536] = {};
  uint64_t end = operation.position + operation.length;
  for (uint64_t position = operation.position; position < end;) {
    std::size_t size = std::min<uint64_t>(sizeof zeroes, end - position);
    ssize_t count = pwrite(operation.fd, zeroes, size, static_cast<off_t>(position));
    if (count < 0 && errno == EINTR) continue;
    if (count <= 0) return count < 0 ? errno : EIO;
    position += static_cast<uint64_t>(count);
  }
  return 0;
}

/// Tries the ways from the best on; only "not supported" leads to the next.
int Zero(const Operation& operation) {
  int error = EOPNOTSUPP;
  if (operation.kind == OperationKind::kWriteZeroesUnmap) error = Allocate(operation, FALLOC_FL_PUNCH_HOLE);
  if (IsUnsupported(error)) error = Allocate(operation, FALLOC_FL_ZERO_RANGE);
  if (IsUnsupported(error) && IsBlockDevice(operation.fd)) error = RangeRequest(operation, BLKZEROOUT);
  return IsUnsupported(error) ? WriteZeroes(operation) : error;
}

int Discard(const Operation& operation) {
  return IsBlockDevice(operation.fd) ? RangeRequest(operation, BLKDISCARD)
                                     : Allocate(operation, FALLOC_FL_PUNCH_HOLE);
}

int Flush(const Operation& operation) {
  int result;
  do {
    result = fdatasync(operation.fd);
  } while (result != 0 && errno == EINTR);
  return result == 0 ? 0 : errno;
}

}  // namespace

int VectorCount(const Operation& operation) {
  return static_cast<int>(std::min<std::size_t>(operation.vectors.size() - operation.next_vector, IOV_MAX));
}

bool TakeOutcome(Operation& operation, int64_t outcome) {
  if (outcome == -EINTR) return false;
  if (outcome < 0) {
    operation.result = static_cast<int32_t>(outcome);
    return true;
  }
  if (outcome == 0) {  // the end of the file; a write that takes nothing is a fault of the file system
    operation.result = operation.kind == OperationKind::kRead ? static_cast<int32_t>(operation.moved) : -EIO;
    return true;
  }
  operation.Advance(static_cast<std::size_t>(outcome));
  operation.result = static_cast<int32_t>(operation.moved);
  return operation.next_vector == operation.vectors.size();
}

bool Transfer(Operation& operation, int flags, bool* supported) {
  for (;;) {
    const iovec* vectors = operation.vectors.data() + operation.next_vector;
    int count = VectorCount(operation);
    auto position = static_cast<off_t>(operation.position + static_cast<uint64_t>(operation.moved));
    ssize_t outcome = operation.kind == OperationKind::kRead
                          ? preadv2(operation.fd, vectors, count, position, flags)
                          : pwritev2(operation.fd, vectors, count, position, flags);
    if (outcome < 0 && (flags & RWF_NOWAIT) && (errno == EAGAIN || errno == EOPNOTSUPP)) {
      if (errno == EOPNOTSUPP) *supported = false;
      return false;
    }
    if (TakeOutcome(operation, outcome < 0 ? -errno : outcome)) return true;
  }
}

void Perform(Operation& operation) {
  switch (operation.kind) {
    case OperationKind::kRead:
    case OperationKind::kWrite:
      Transfer(operation, 0, nullptr);
      return;
    case OperationKind::kFlush:
      operation.result = -Flush(operation);
      return;
    case OperationKind::kDiscard:
      operation.result = -Discard(operation);
      return;
    case OperationKind::kWriteZeroes:
    case OperationKind::kWriteZeroesUnmap:
      operation.result = -Zero(operation);
      return;
  }
  operation.result = -EINVAL;
}

}  // namespace vhost_user
