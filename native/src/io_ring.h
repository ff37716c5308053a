#pragma once

#include <linux/io_uring.h>

#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <vector>

#include "operation.h"
#include "unique_fd.h"

namespace vhost_user {

/// A region of memory shared with the kernel.
class SharedRegion {
 public:
  SharedRegion() = default;
  SharedRegion(int fd, std::size_t length, uint64_t offset);
  SharedRegion(SharedRegion&& other) noexcept;
  SharedRegion& operator=(SharedRegion&& other) noexcept;
  ~SharedRegion();
  template <typename T>
  T* At(uint32_t offset) const {
    return reinterpret_cast<T*>(static_cast<uint8_t*>(base_) + offset);
  }

 private:
  void* base_ = nullptr;
  std::size_t length_ = 0;
};

/// An io_uring by its bare system calls, for reads, writes and flushes. Takes any number of operations; what
/// the ring has no room for waits in here.
class IoRing {
 public:
  /// Null where the kernel has no io_uring or forbids it.
  static std::unique_ptr<IoRing> Create();

  /// Readable when operations have ended.
  int fd() const { return fd_.get(); }
  /// `asynchronous`: do not even try to end it inside of `Flush`.
  void Queue(Operation* operation, bool asynchronous);
  /// Submits what was queued. Returns false when the kernel takes nothing and nothing is under way that could
  /// end; `TakeWaiting` then gives the operations back.
  bool Flush();
  std::vector<Operation*> TakeWaiting();
  /// Appends what has ended and goes on with what was waiting. Returns as `Flush`.
  bool Reap(std::vector<Operation*>& ended);

 private:
  struct Waiting {
    Operation* operation;
    bool asynchronous;
  };

  IoRing() = default;
  void Fill();
  void Encode(const Waiting& waiting, io_uring_sqe& entry);

  UniqueFd fd_;
  SharedRegion rings_;
  SharedRegion entries_;
  uint32_t* submission_head_;
  uint32_t* submission_tail_;
  uint32_t submission_mask_;
  uint32_t submission_size_;
  uint32_t* completion_head_;
  uint32_t* completion_tail_;
  uint32_t completion_mask_;
  uint32_t completion_size_;
  uint32_t completions_offset_;
  uint32_t filled_ = 0;   // in the submission ring, not taken by the kernel yet
  uint32_t running_ = 0;  // taken by the kernel
  std::deque<Waiting> waiting_;
};

}  // namespace vhost_user
