#include "watch.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <memory>

#include "environment.h"
#include "javascript.h"

namespace vhost_user {

Watch::Watch(Environment& environment, int fd, bool counter, Napi::Function callback)
    : environment_(environment),
      fd_(fd),
      counter_(counter),
      callback_(std::make_shared<Napi::FunctionReference>(Napi::Persistent(callback))),
      poller_(Poller::Open(environment, fd, [this](int status, int events) { OnEvent(status, events); })) {}

int Watch::SetEvents(int events) {
  events_ = events;
  if (events != 0) return poller_->Start(events);
  poller_->Stop();
  return 0;
}

void Watch::OnEvent(int status, int events) {
  if (environment_.closing()) return;
  auto callback = callback_;
  if (counter_) {
    // libuv has stopped watching after an error (EPOLLERR). An eventfd has one when its counter has
    // overflowed; it is well again once drained. Anything that cannot be drained stays unwatched, or the loop
    // would spin on it.
    int result = DrainCounter();
    if (result < 0 && status == 0) poller_->Stop();
    if (result >= 0 && status < 0) result = std::min(result, poller_->Start(events_) < 0 ? -EBADF : 1);
    if (result != 0) CallFromLoop(environment_.env(), *callback, result);
    return;
  }
  // A socket in error: the reader finds the cause behind the data that is still there, so it must be called
  // until then.
  if (status < 0) {
    events = events_;
    int restarted = poller_->Start(events_);
    if (restarted < 0) events = restarted;
  }
  CallFromLoop(environment_.env(), *callback, events);
}

/// Returns 1 when there was a signal, 0 when somebody else took it, or a negative errno.
int Watch::DrainCounter() {
  uint8_t
      buffer[256];  // an eventfd gives 8 bytes; a pipe that a front-end uses in its place gives what it has
  iovec vector{buffer, sizeof buffer};
  for (;;) {
    // O_NONBLOCK belongs to the open file, which the peer shares and can change; RWF_NOWAIT is ours alone.
    ssize_t count = preadv2(fd_, &vector, 1, -1, RWF_NOWAIT);
    if (count < 0 && errno == EOPNOTSUPP) count = read(fd_, buffer, sizeof buffer);
    if (count > 0) return 1;
    if (count == 0) return -EPIPE;
    if (errno == EAGAIN) return 0;
    if (errno != EINTR) return -errno;
  }
}

int SignalEventFd(int fd) {
  if (fd < 0) return -EBADF;  // poll ignores it
  // An eventfd cannot be written with RWF_NOWAIT, and O_NONBLOCK is not ours to set: the peer may read the
  // same open file and rely on blocking. So ask first. Not writable means full, which is as good as
  // signalled.
  pollfd state{fd, POLLOUT, 0};
  int ready;
  do {
    ready = poll(&state, 1, 0);
  } while (ready < 0 && errno == EINTR);
  if (ready < 0) return -errno;
  if (state.revents & POLLNVAL) return -EBADF;
  if (ready == 0) return 0;
  const uint64_t one = 1;
  for (;;) {
    if (write(fd, &one, sizeof one) >= 0 || errno == EAGAIN) return 0;
    if (errno != EINTR) return -errno;
  }
}

namespace {

/// createEventFd() -> fd
Napi::Value CreateEventFd(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), Check("eventfd", eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)));
}

/// openWatch(fd, counter, callback) -> watch
Napi::Value OpenWatch(const Napi::CallbackInfo& info) {
  auto& environment = Environment::Of(info.Env());
  auto watch = std::make_unique<Watch>(environment, IntArgument(info, 0), info[1].ToBoolean().Value(),
                                       info[2].As<Napi::Function>());
  return Napi::Number::New(info.Env(), environment.watches.Add(std::move(watch)));
}

/// closeWatch(watch)
Napi::Value CloseWatch(const Napi::CallbackInfo& info) {
  auto& watches = Environment::Of(info.Env()).watches;
  int id = IntArgument(info, 0);
  if (watches.Find(id) == nullptr) Fail("close", EBADF);
  watches.Remove(id);
  return info.Env().Undefined();
}

/// setWatchEvents(watch, events) -> 0 or a negative errno
napi_value SetWatchEvents(napi_env env, napi_callback_info info) {
  int32_t arguments[2];
  ReadInts(env, info, arguments);
  auto* watch = Environment::Of(env).watches.Find(arguments[0]);
  if (watch == nullptr) return ToInt(env, -EBADF);
  return ToInt(env, (*watch)->SetEvents(arguments[1]));
}

/// signalEventFd(fd) -> 0 or a negative errno
napi_value SignalEventFdRaw(napi_env env, napi_callback_info info) {
  int32_t arguments[1];
  ReadInts(env, info, arguments);
  return ToInt(env, SignalEventFd(arguments[0]));
}

}  // namespace

void ExportWatches(Napi::Object exports) {
  Export<CreateEventFd>(exports, "createEventFd");
  Export<OpenWatch>(exports, "openWatch");
  Export<CloseWatch>(exports, "closeWatch");
  ExportRaw(exports, "setWatchEvents", SetWatchEvents);
  ExportRaw(exports, "signalEventFd", SignalEventFdRaw);
}

}  // namespace vhost_user
