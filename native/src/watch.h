#pragma once

#include <napi.h>

#include "poller.h"

namespace vhost_user {

class Environment;

/// A Poller that calls JavaScript. A plain watch reports libuv's event bits and leaves the fd alone. A
/// counter watch (eventfds) drains the fd first and reports 1. Both report a negative errno when the fd
/// fails.
class Watch {
 public:
  Watch(Environment& environment, int fd, bool counter, Napi::Function callback);

  /// 0 stops. Returns 0 or a negative errno.
  int SetEvents(int events);

 private:
  void OnEvent(int status, int events);
  int DrainCounter();

  Environment& environment_;
  int fd_;
  bool counter_;
  int events_ = 0;
  // Shared with a call under way: JavaScript may close the watch from inside of it.
  std::shared_ptr<Napi::FunctionReference> callback_;
  PollerHolder poller_;
};

/// Adds one to an eventfd. Never blocks; a full counter is success. Returns 0 or a negative errno.
int SignalEventFd(int fd);

void ExportWatches(Napi::Object exports);

}  // namespace vhost_user
