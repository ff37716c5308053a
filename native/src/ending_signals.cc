#include "ending_signals.h"

#include <sys/eventfd.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdint>
#include <mutex>

#include "javascript.h"

namespace vhost_user {
namespace {

// What the handler touches: static, never freed or closed.
std::atomic<int> noted_fd{-1};
struct sigaction previous[NSIG];

std::mutex mutex;
sigset_t noted;  // guarded by the mutex

/// Async-signal-safe. An access that waits for a page is broken off for it, and made again afterwards.
void OnSignal(int signal, siginfo_t* info, void* context) {
  int saved = errno;
  const uint64_t one = 1;
  [[maybe_unused]] ssize_t written = write(noted_fd.load(std::memory_order_acquire), &one, sizeof one);
  errno = saved;
  const struct sigaction& before = previous[signal];
  if (before.sa_flags & SA_SIGINFO) {
    before.sa_sigaction(signal, info, context);
  } else {
    before.sa_handler(signal);
  }
}

}  // namespace

void NoteEndingSignals(const std::vector<int>& signals) {
  std::lock_guard lock(mutex);
  if (noted_fd.load() < 0) {
    sigemptyset(&noted);
    noted_fd.store(Check("eventfd", eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
  }
  for (int signal : signals) {
    struct sigaction action {};
    Check("sigaction", sigaction(signal, nullptr, &action));
    if (action.sa_handler == SIG_DFL || action.sa_handler == SIG_IGN) continue;
    if ((action.sa_flags & SA_SIGINFO) != 0 && action.sa_sigaction == OnSignal) continue;
    previous[signal] = action;
    action.sa_sigaction = OnSignal;
    action.sa_flags |= SA_SIGINFO;
    Check("sigaction", sigaction(signal, &action, nullptr));
    sigaddset(&noted, signal);
  }
}

int EndingSignalFd() {
  return noted_fd.load(std::memory_order_acquire);
}

bool EndingSignalPending() {
  std::lock_guard lock(mutex);
  sigset_t pending;
  if (noted_fd.load() < 0 || sigpending(&pending) != 0) return false;
  for (int signal = 1; signal < NSIG; signal++) {
    if (sigismember(&noted, signal) == 1 && sigismember(&pending, signal) == 1) return true;
  }
  return false;
}

}  // namespace vhost_user
