#pragma once

#include <cstddef>
#include <cstdint>

namespace vhost_user {

/// Tells which parts of a file lie in the page cache. RWF_NOWAIT alone cannot be asked: where pages are
/// missing it begins to read ahead, and that waits for the file system's own blocks and for a place in the
/// device's queue, for ever when the device is stalled.
class PageCache {
 public:
  PageCache() = default;
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;
  ~PageCache();

  /// True when all of it is there, and also when that cannot be found out. Does no I/O.
  bool MayHold(int fd, uint64_t position, uint64_t length);

 private:
  bool Cover(int fd, uint64_t end);

  // The file, mapped without access: only mincore looks at it.
  void* base_ = nullptr;
  uint64_t covered_ = 0;
  bool unknown_ = false;
};

}  // namespace vhost_user
