#pragma once

#include <memory>
#include <vector>

#include "operation.h"

namespace vhost_user {

/// Threads that carry out operations which may block. Made when there is work for them, at most `kThreads`.
/// Not libuv's pool: a stalled disk must not hold up the rest of the program, nor another disk.
class ThreadPool {
 public:
  static constexpr int kThreads = 4;

  /// Throws SystemError.
  ThreadPool();
  /// Nothing may be under way, or `Abandon` was called.
  ~ThreadPool();

  /// Readable (an eventfd) when operations have ended.
  int fd() const;
  void Queue(Operation* operation) { batch_.push_back(operation); }
  /// Hands over what was queued.
  void Flush();
  /// Appends what has ended.
  void Reap(std::vector<Operation*>& ended);
  /// Leaves the threads to themselves; what they still do is never reaped.
  void Abandon();

 private:
  struct State;
  static void Run(const std::shared_ptr<State>& state);
  bool AddThread();

  std::shared_ptr<State> state_;
  std::vector<Operation*> batch_;
};

}  // namespace vhost_user
