#include "thread_pool.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <condition_variable>
#include <csignal>
#include <deque>
#include <mutex>
#include <system_error>
#include <thread>

#include "javascript.h"
#include "unique_fd.h"

namespace vhost_user {

/// Shared with the threads, so that abandoned ones have ground to stand on.
struct ThreadPool::State {
  UniqueFd event_fd;
  std::vector<std::thread> threads;  // of the owner alone

  std::mutex mutex;  // guards everything below
  std::condition_variable work;
  std::deque<Operation*> queue;
  std::vector<Operation*> ended;
  int idle = 0;
  bool stopping = false;

  /// With the mutex held.
  void End(Operation* operation) {
    ended.push_back(operation);
    if (ended.size() > 1) return;  // the loop has been told already
    const uint64_t one = 1;
    [[maybe_unused]] ssize_t written = write(event_fd.get(), &one, sizeof one);
  }
};

ThreadPool::ThreadPool() : state_(std::make_shared<State>()) {
  state_->event_fd.Reset(Check("eventfd", eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
}

ThreadPool::~ThreadPool() {
  {
    std::lock_guard lock(state_->mutex);
    state_->stopping = true;
  }
  state_->work.notify_all();
  for (std::thread& thread : state_->threads) thread.join();
}

int ThreadPool::fd() const {
  return state_->event_fd.get();
}

void ThreadPool::Flush() {
  if (batch_.empty()) return;
  std::unique_lock lock(state_->mutex);
  state_->queue.insert(state_->queue.end(), batch_.begin(), batch_.end());
  batch_.clear();
  std::size_t wanted = state_->queue.size();
  std::size_t idle = state_->idle;
  std::size_t room = kThreads - state_->threads.size();
  lock.unlock();
  for (std::size_t i = 0; i < std::min(wanted, idle); i++) state_->work.notify_one();
  for (std::size_t missing = wanted > idle ? std::min(wanted - idle, room) : 0; missing > 0 && AddThread();)
    missing--;
  if (!state_->threads.empty()) return;
  // Not a single thread to be had: the operations fail, and the owner hears of it in the usual way.
  lock.lock();
  for (Operation* operation : state_->queue) {
    operation->result = -EAGAIN;
    state_->End(operation);
  }
  state_->queue.clear();
}

/// False when the system allows no more threads.
bool ThreadPool::AddThread() {
  // Signals are for the threads of Node; those that an access raises cannot be put off, and are left as they
  // are.
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) sigdelset(&blocked, fault);
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  bool added = true;
  try {
    state_->threads.emplace_back([state = state_] { Run(state); });
  } catch (const std::system_error&) {
    added = false;
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
  return added;
}

void ThreadPool::Run(const std::shared_ptr<State>& state) {
  std::unique_lock lock(state->mutex);
  for (;;) {
    while (state->queue.empty()) {
      if (state->stopping) return;
      state->idle++;
      state->work.wait(lock);
      state->idle--;
    }
    Operation* operation = state->queue.front();
    state->queue.pop_front();
    lock.unlock();
    Perform(*operation);
    lock.lock();
    state->End(operation);
  }
}

void ThreadPool::Reap(std::vector<Operation*>& ended) {
  uint64_t count;
  [[maybe_unused]] ssize_t drained = read(fd(), &count, sizeof count);
  std::lock_guard lock(state_->mutex);
  ended.insert(ended.end(), state_->ended.begin(), state_->ended.end());
  state_->ended.clear();
}

void ThreadPool::Abandon() {
  for (std::thread& thread : state_->threads) thread.detach();
  state_->threads.clear();
}

}  // namespace vhost_user
