#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

namespace vhost_user {

class FaultedRanges;

/// Memory of a file, mapped shared and guarded against SIGBUS. Counted by hand: the environment holds it
/// while JavaScript sees it, and every native operation holds it while the kernel may read or write there.
/// All of that happens on one thread.
class Mapping {
 public:
  /// Maps `length` bytes at `offset`. Throws SystemError; EOVERFLOW when the file is shorter than that.
  Mapping(int fd, uint64_t offset, uint64_t length);
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;

  uint8_t* data() const { return data_; }
  /// Index of the word in `DamageFlags` that becomes 1 when a page was lost.
  uint32_t guard() const { return guard_; }

  /// Accesses to missing pages wait from here on until they are supplied. Throws SystemError.
  void CatchFaults(std::shared_ptr<FaultedRanges> faults);

  /// Whether an access may have to wait for a page.
  bool may_wait() const;

  void Retain() { holders_++; }
  void Release() {
    if (--holders_ == 0) delete this;
  }

 private:
  ~Mapping();

  void* base_;
  std::size_t mapped_length_;
  uint8_t* data_;
  uint32_t guard_;
  std::shared_ptr<FaultedRanges> faults_;
  int holders_ = 1;
};

struct MappingReleaser {
  void operator()(Mapping* mapping) const { mapping->Release(); }
};
/// One hold on a mapping.
using MappingHolder = std::unique_ptr<Mapping, MappingReleaser>;

}  // namespace vhost_user
