#include "page_cache.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>

namespace vhost_user {
namespace {

constexpr uint64_t kLeast = uint64_t{1} << 30;
/// Pages asked for in one call.
constexpr uint64_t kPages = 512;

const uint64_t kPageSize = static_cast<uint64_t>(sysconf(_SC_PAGESIZE));

}  // namespace

PageCache::~PageCache() {
  if (base_ != nullptr) munmap(base_, covered_);
}

bool PageCache::MayHold(int fd, uint64_t position, uint64_t length) {
  if (!Cover(fd, position + length)) return true;
  uint64_t end = position + length;
  for (uint64_t start = position / kPageSize * kPageSize; start < end; start += kPages * kPageSize) {
    unsigned char present[kPages];
    uint64_t size = std::min(end - start, kPages * kPageSize);
    if (mincore(static_cast<char*>(base_) + start, size, present) != 0) return true;
    uint64_t pages = (size + kPageSize - 1) / kPageSize;
    if (!std::all_of(present, present + pages, [](unsigned char page) { return page & 1; })) return false;
  }
  return true;
}

/// Maps more of the file when it has grown, or is used for the first time. A mapping may reach beyond its
/// end.
bool PageCache::Cover(int fd, uint64_t end) {
  if (end <= covered_ || unknown_) return !unknown_;
  uint64_t length = (std::max({end, 2 * covered_, kLeast}) + kPageSize - 1) / kPageSize * kPageSize;
  if (base_ != nullptr) munmap(base_, covered_);
  base_ = mmap(nullptr, length, PROT_NONE, MAP_SHARED | MAP_NORESERVE, fd, 0);
  unknown_ = base_ == MAP_FAILED;
  if (unknown_) base_ = nullptr;
  covered_ = unknown_ ? 0 : length;
  return !unknown_;
}

}  // namespace vhost_user
