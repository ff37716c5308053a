#pragma once

#include <napi.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "unique_fd.h"

namespace vhost_user {

/// The ranges of mappings whose missing pages somebody else supplies, and the userfaultfd that asks for them.
/// Shared by the mappings, so that one that goes takes its range along, and by the thread that watches the
/// peer.
class FaultedRanges {
 public:
  /// Opens the userfaultfd. Throws SystemError: EPERM when faults inside of system calls may not be caught.
  FaultedRanges();

  int fd() const { return fd_.get(); }
  /// Whether pages may still be missing.
  bool active() const { return active_.load(std::memory_order_acquire); }
  /// From here on an access to a page that is not there waits for it. Throws SystemError.
  void Register(void* base, std::size_t length, uint32_t guard);
  /// Before the range is unmapped.
  void Forget(void* base);
  /// Accesses find what is there, zeros where nothing is; whoever waits goes on. Closes the userfaultfd.
  void Release();
  /// Takes the memory away: system calls that use it, those that wait included, fail with EFAULT; for
  /// accesses from JavaScript it is as if its file had been truncated, and the guard sees to them. Closes the
  /// userfaultfd.
  void Withdraw();

 private:
  struct Range {
    void* base;
    std::size_t length;
    uint32_t guard;
  };

  std::mutex mutex_;  // guards everything below
  UniqueFd fd_;
  UniqueFd empty_;  // a file without a byte, to lay over what is withdrawn
  std::vector<Range> ranges_;

  std::atomic<bool> active_{true};
};

/// A userfaultfd in the hands of JavaScript. With a peer, a socket, a thread looks out for the peer's end: an
/// access that waits for a page then must not wait for ever, and the thread that waits may be the one of the
/// event loop. It looks out for the end of this process as well (see ending_signals.h).
class Userfault {
 public:
  explicit Userfault(int peer);
  ~Userfault() { End(false); }
  Userfault(const Userfault&) = delete;
  Userfault& operator=(const Userfault&) = delete;

  const std::shared_ptr<FaultedRanges>& ranges() const { return ranges_; }
  /// `served`: all pages are there. Otherwise the memory is withdrawn. Idempotent.
  void End(bool served);

 private:
  std::shared_ptr<FaultedRanges> ranges_;
  UniqueFd stop_;
  std::thread watcher_;
};

void ExportUserfaults(Napi::Object exports);

}  // namespace vhost_user
