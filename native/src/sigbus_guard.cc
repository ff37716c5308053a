#include "sigbus_guard.h"

#include <sys/mman.h>

#include <atomic>
#include <cerrno>
#include <csignal>
#include <mutex>
#include <vector>

namespace vhost_user {
namespace {

struct Range {
  std::atomic<uintptr_t> begin;  // 0: unused. Written last when a range appears, first when it goes.
  std::atomic<uintptr_t> end;
  std::atomic<uintptr_t> page_size;
  std::atomic<bool> withdrawn;
};

// What the handler touches: static, without constructors or destructors, never freed.
Range ranges[kMaxGuards];
std::atomic<uint32_t> range_count;  // ranges used so far; those below may be free again
alignas(64) std::atomic<int32_t> damage[kMaxGuards];
struct sigaction previous;
static_assert(sizeof(std::atomic<int32_t>) == sizeof(int32_t) && std::atomic<int32_t>::is_always_lock_free);

/// Replaces the lost memory. All of it up to the end of the range: what lies behind the end of a truncated
/// file is gone as well, and a fault for each page of a large guest would take minutes. Of withdrawn memory a
/// page and no more: writes to a disk that still use the rest must fail and not find zeros.
/// Async-signal-safe.
bool Repair(uintptr_t address) {
  uint32_t count = range_count.load(std::memory_order_acquire);
  for (uint32_t i = 0; i < count; i++) {
    uintptr_t begin = ranges[i].begin.load(std::memory_order_acquire);
    uintptr_t end = ranges[i].end.load(std::memory_order_acquire);
    uintptr_t page_size = ranges[i].page_size.load(std::memory_order_acquire);
    if (begin == 0 || address < begin || address >= end) continue;
    if (ranges[i].begin.load(std::memory_order_acquire) != begin)
      continue;  // changed hands while it was read
    uintptr_t start = address / page_size * page_size;
    if (ranges[i].withdrawn.load(std::memory_order_acquire)) end = start + page_size;
    void* replaced = mmap(reinterpret_cast<void*>(start), end - start, PROT_READ | PROT_WRITE,
                          MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0);
    if (replaced == MAP_FAILED) return false;
    damage[i].store(1, std::memory_order_release);
    return true;
  }
  return false;
}

void PassOn(int signal, siginfo_t* info, void* context) {
  if (previous.sa_flags & SA_SIGINFO) return previous.sa_sigaction(signal, info, context);
  bool sent = info->si_code <= 0;  // by kill() and not by an access
  if (previous.sa_handler == SIG_IGN && sent) return;
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) return previous.sa_handler(signal);
  // The default action ends the process: a fault by happening again once we return, a sent signal by raising
  // it.
  struct sigaction standard {};
  standard.sa_handler = SIG_DFL;
  sigaction(SIGBUS, &standard, nullptr);
  if (sent) raise(SIGBUS);
}

void OnSigbus(int signal, siginfo_t* info, void* context) {
  int saved = errno;
  bool lost = info->si_code == BUS_ADRERR || info->si_code == BUS_MCEERR_AR;
  if (!lost || !Repair(reinterpret_cast<uintptr_t>(info->si_addr))) PassOn(signal, info, context);
  errno = saved;
}

void Install() {
  struct sigaction action {};
  action.sa_sigaction = OnSigbus;
  action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER;
  sigemptyset(&action.sa_mask);
  sigaction(SIGBUS, &action, &previous);
}

std::mutex mutex;
std::vector<uint32_t>& FreeGuards() {
  static auto* guards =
      new std::vector<uint32_t>;  // outlives the static destructors: threads may still run then
  return *guards;
}

}  // namespace

int GuardRange(void* base, std::size_t length, std::size_t page_size) {
  static std::once_flag installed;
  std::call_once(installed, Install);
  std::lock_guard lock(mutex);
  std::vector<uint32_t>& free = FreeGuards();
  uint32_t guard = range_count.load(std::memory_order_relaxed);
  if (!free.empty()) {
    guard = free.back();
    free.pop_back();
  } else if (guard < kMaxGuards) {
    range_count.store(guard + 1, std::memory_order_release);
  } else {
    return -1;
  }
  auto begin = reinterpret_cast<uintptr_t>(base);
  damage[guard].store(0, std::memory_order_relaxed);
  ranges[guard].page_size.store(page_size, std::memory_order_release);
  ranges[guard].withdrawn.store(false, std::memory_order_release);
  ranges[guard].end.store(begin + length, std::memory_order_release);
  ranges[guard].begin.store(begin, std::memory_order_release);
  return static_cast<int>(guard);
}

void UnguardRange(uint32_t guard) {
  ranges[guard].begin.store(0, std::memory_order_release);
  std::lock_guard lock(mutex);
  FreeGuards().push_back(guard);
}

void WithdrawRange(uint32_t guard) {
  ranges[guard].withdrawn.store(true, std::memory_order_release);
  damage[guard].store(1, std::memory_order_release);
}

int32_t* DamageFlags() {
  return reinterpret_cast<int32_t*>(damage);
}

}  // namespace vhost_user
