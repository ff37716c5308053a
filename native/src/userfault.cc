#include "userfault.h"

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <utility>

#include "ending_signals.h"
#include "environment.h"
#include "javascript.h"
#include "sigbus_guard.h"

#ifndef USERFAULTFD_IOC_NEW
#define USERFAULTFD_IOC_NEW _IO(0xAA, 0x00)
#endif

namespace vhost_user {
namespace {

/// How long the event loop has to notice the peer's end by itself before its memory is taken away.
constexpr int kGraceMilliseconds = 500;
/// The same for a signal that ends the process.
constexpr int kEndMilliseconds = 1000;
/// How often to look for such a signal that reaches nobody.
constexpr int kLookMilliseconds = 250;

uffdio_range RangeOf(const void* base, std::size_t length) {
  return {reinterpret_cast<uintptr_t>(base), length};
}

/// One that sees faults inside of system calls too: the memory goes to preadv and io_uring as it is. That
/// takes CAP_SYS_PTRACE, the sysctl vm.unprivileged_userfaultfd, or the right to open the device.
UniqueFd Open() {
  constexpr int kFlags = O_CLOEXEC | O_NONBLOCK;
  UniqueFd fd(static_cast<int>(syscall(__NR_userfaultfd, kFlags)));
  if (!fd) {
    int error = errno;
    UniqueFd device(open("/dev/userfaultfd", O_RDWR | O_CLOEXEC));
    if (device) fd.Reset(ioctl(device.get(), USERFAULTFD_IOC_NEW, kFlags));
    if (!fd) Fail("userfaultfd", error);
  }
  uffdio_api api{};
  api.api = UFFD_API;
  Check("ioctl(UFFDIO_API)", ioctl(fd.get(), UFFDIO_API, &api));
  if ((api.features & UFFD_FEATURE_MISSING_SHMEM) == 0) Fail("ioctl(UFFDIO_API)", EOPNOTSUPP);
  return fd;
}

}  // namespace

FaultedRanges::FaultedRanges()
    : fd_(Open()), empty_(Check("memfd_create", memfd_create("withdrawn", MFD_CLOEXEC))) {}

void FaultedRanges::Register(void* base, std::size_t length, uint32_t guard) {
  std::lock_guard lock(mutex_);
  auto same = [&](const Range& range) { return range.base == base; };
  if (std::any_of(ranges_.begin(), ranges_.end(), same)) return;
  if (!fd_) Fail("ioctl(UFFDIO_REGISTER)", EBADF);
  // The front-end supplies pages one by one. A kernel without huge pages says no, which is as good.
  madvise(base, length, MADV_NOHUGEPAGE);
  uffdio_register registration{};
  registration.range = RangeOf(base, length);
  registration.mode = UFFDIO_REGISTER_MODE_MISSING;
  Check("ioctl(UFFDIO_REGISTER)", ioctl(fd_.get(), UFFDIO_REGISTER, &registration));
  ranges_.push_back({base, length, guard});
}

void FaultedRanges::Forget(void* base) {
  std::lock_guard lock(mutex_);
  auto same = [&](const Range& range) { return range.base == base; };
  ranges_.erase(std::remove_if(ranges_.begin(), ranges_.end(), same), ranges_.end());
}

void FaultedRanges::Release() {
  std::lock_guard lock(mutex_);
  for (const Range& range : ranges_) {
    // Closing is not enough, the peer has the same userfaultfd. It fails where the guard has replaced pages.
    uffdio_range whole = RangeOf(range.base, range.length);
    ioctl(fd_.get(), UFFDIO_UNREGISTER, &whole);
    ioctl(fd_.get(), UFFDIO_WAKE, &whole);
  }
  ranges_.clear();
  active_.store(false, std::memory_order_release);
  fd_.Reset();
}

void FaultedRanges::Withdraw() {
  std::lock_guard lock(mutex_);
  for (const Range& range : ranges_) {
    WithdrawRange(range.guard);
    // In one step, so that nobody finds other memory there in between. Those who wait do so in the kernel's
    // list and look again when they are woken.
    mmap(range.base, range.length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED,
         empty_.get(), 0);
    uffdio_range whole = RangeOf(range.base, range.length);
    ioctl(fd_.get(), UFFDIO_WAKE, &whole);
  }
  ranges_.clear();
  active_.store(false, std::memory_order_release);
  fd_.Reset();
}

Userfault::Userfault(int peer) : ranges_(std::make_shared<FaultedRanges>()) {
  if (peer < 0) return;
  stop_.Reset(Check("eventfd", eventfd(0, EFD_CLOEXEC)));
  auto socket = std::make_shared<UniqueFd>(Check("fcntl", fcntl(peer, F_DUPFD_CLOEXEC, 0)));
  auto watch = [ranges = ranges_, socket, stop = stop_.get()] {
    const int ending = EndingSignalFd();
    pollfd fds[] = {{stop, POLLIN, 0}, {socket->get(), POLLRDHUP, 0}, {ending, POLLIN, 0}};
    bool over = false;
    for (int count = 0; count == 0 && !over; over = ending >= 0 && EndingSignalPending()) {
      count = poll(fds, 3, ending < 0 ? -1 : kLookMilliseconds);
      if (count < 0 && errno == EINTR) count = 0;
    }
    if (fds[0].revents != 0) return;
    if (poll(fds, 1, fds[1].revents != 0 ? kGraceMilliseconds : kEndMilliseconds) == 0) ranges->Withdraw();
  };
  // As in the thread pool: signals are for the threads of Node, but for those that an access raises.
  sigset_t blocked, before;
  sigfillset(&blocked);
  for (int fault : {SIGBUS, SIGSEGV, SIGFPE, SIGILL}) sigdelset(&blocked, fault);
  pthread_sigmask(SIG_SETMASK, &blocked, &before);
  try {
    watcher_ = std::thread(watch);
  } catch (const std::system_error& error) {
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
    Fail("pthread_create", error.code().value());
  }
  pthread_sigmask(SIG_SETMASK, &before, nullptr);
}

void Userfault::End(bool served) {
  if (watcher_.joinable()) {
    const uint64_t one = 1;
    [[maybe_unused]] ssize_t written = write(stop_.get(), &one, sizeof one);
    watcher_.join();
  }
  if (served) {
    ranges_->Release();
  } else {
    ranges_->Withdraw();
  }
}

namespace {

Userfault& Find(const Napi::CallbackInfo& info) {
  auto* found = Environment::Of(info.Env()).userfaults.Find(IntArgument(info, 0));
  if (found == nullptr) Fail("userfaultfd", EBADF);
  return **found;
}

/// userfaultOpen(socket of the peer or -1) -> [handle, fd]; the fd is a duplicate, the caller's to close
Napi::Value OpenOne(const Napi::CallbackInfo& info) {
  auto userfault = std::make_unique<Userfault>(IntArgument(info, 0));
  UniqueFd fd(Check("fcntl", fcntl(userfault->ranges()->fd(), F_DUPFD_CLOEXEC, 0)));
  auto result = Napi::Array::New(info.Env(), 2);
  result.Set(0u,
             Napi::Number::New(info.Env(), Environment::Of(info.Env()).userfaults.Add(std::move(userfault))));
  result.Set(1u, Napi::Number::New(info.Env(), fd.Release()));
  return result;
}

/// userfaultEndWith(signals): those of userfaults that are opened from now on
Napi::Value EndWith(const Napi::CallbackInfo& info) {
  auto numbers = info[0].As<Napi::Array>();
  std::vector<int> signals;
  for (uint32_t i = 0; i < numbers.Length(); i++) {
    signals.push_back(numbers.Get(i).As<Napi::Number>().Int32Value());
  }
  NoteEndingSignals(signals);
  return info.Env().Undefined();
}

/// userfaultRegister(handle, first window of a mapping)
Napi::Value Register(const Napi::CallbackInfo& info) {
  Mapping* mapping = nullptr;
  Environment::Of(info.Env()).memory.Find(IntArgument(info, 1), 0, 0, &mapping);
  if (mapping == nullptr) Fail("ioctl(UFFDIO_REGISTER)", EINVAL);
  mapping->CatchFaults(Find(info).ranges());
  return info.Env().Undefined();
}

/// userfaultEnd(handle, served)
Napi::Value End(const Napi::CallbackInfo& info) {
  Find(info).End(info[1].ToBoolean());
  Environment::Of(info.Env()).userfaults.Remove(IntArgument(info, 0));
  return info.Env().Undefined();
}

/// userfaultNext(fd) -> address of the next fault, or null when there is none now
Napi::Value Next(const Napi::CallbackInfo& info) {
  int fd = IntArgument(info, 0);
  uffd_msg message;
  for (;;) {
    // O_NONBLOCK belongs to the open file, and that is the other process's too: it is not relied on.
    iovec vector{&message, sizeof message};
    ssize_t count = preadv2(fd, &vector, 1, -1, RWF_NOWAIT);
    if (count < 0 && errno == EOPNOTSUPP) count = read(fd, &message, sizeof message);
    if (count < 0 && errno == EINTR) continue;
    if (count < 0 && errno == EAGAIN) return info.Env().Null();
    if (count != sizeof message) Fail("read", count < 0 ? errno : EIO);
    if (message.event != UFFD_EVENT_PAGEFAULT) continue;
    return Napi::BigInt::New(info.Env(), static_cast<uint64_t>(message.arg.pagefault.address));
  }
}

/// userfaultCopy(fd, address, bytes) -> false when something is there already
Napi::Value Copy(const Napi::CallbackInfo& info) {
  auto bytes = info[2].As<Napi::Uint8Array>();
  uint64_t address = BigArgument(info, 1, "ioctl(UFFDIO_COPY)");
  uint64_t length = bytes.ByteLength();
  auto source = reinterpret_cast<uintptr_t>(bytes.Data());
  for (uint64_t done = 0; done < length;) {
    uffdio_copy copy{};
    copy.dst = address + done;
    copy.src = source + done;
    copy.len = length - done;
    if (ioctl(IntArgument(info, 0), UFFDIO_COPY, &copy) == 0) break;
    // Interrupted by a change of the other side's mappings: it goes on where it stopped.
    if (errno != EAGAIN) {
      if (errno != EEXIST) Fail("ioctl(UFFDIO_COPY)");
      return Napi::Boolean::New(info.Env(), false);
    }
    if (copy.copy > 0) done += static_cast<uint64_t>(copy.copy);
  }
  return Napi::Boolean::New(info.Env(), true);
}

/// userfaultWake(fd, address, length)
Napi::Value Wake(const Napi::CallbackInfo& info) {
  uffdio_range range = {BigArgument(info, 1, "ioctl(UFFDIO_WAKE)"),
                        BigArgument(info, 2, "ioctl(UFFDIO_WAKE)")};
  Check("ioctl(UFFDIO_WAKE)", ioctl(IntArgument(info, 0), UFFDIO_WAKE, &range));
  return info.Env().Undefined();
}

}  // namespace

void ExportUserfaults(Napi::Object exports) {
  Export<OpenOne>(exports, "userfaultOpen");
  Export<EndWith>(exports, "userfaultEndWith");
  Export<Register>(exports, "userfaultRegister");
  Export<End>(exports, "userfaultEnd");
  Export<Next>(exports, "userfaultNext");
  Export<Copy>(exports, "userfaultCopy");
  Export<Wake>(exports, "userfaultWake");
}

}  // namespace vhost_user
