#pragma once

#include <functional>
#include <memory>

#include "libuv.h"

namespace vhost_user {

class Environment;

/// Watches one fd on Node's loop. Made on the heap and deleted by libuv's close callback: `Close` is its
/// destructor. The fd must stay open until then.
class Poller {
 public:
  /// `status` is 0 or a negative errno, on which the watching has stopped; `events` are kUvReadable,
  /// kUvWritable, kUvDisconnect.
  using Callback = std::function<void(int status, int events)>;

  /// Throws SystemError: EPERM for an fd that cannot be polled (a regular file), EEXIST for one that is
  /// watched already.
  static Poller* Open(Environment& environment, int fd, Callback callback);

  /// Returns 0 or a negative errno.
  int Start(int events);
  void Stop();
  /// Whether it keeps the process alive while started. True at first.
  void SetReferenced(bool referenced);
  /// The callback is not called any more from here on.
  void Close();

 private:
  Poller(Environment& environment, Callback callback);
  ~Poller();

  static void OnEvent(uv_handle_s* handle, int status, int events);
  static void OnClosed(uv_handle_s* handle);

  Environment& environment_;
  Callback callback_;
  uv_handle_s* handle_;
  bool closing_ = false;
};

struct PollerCloser {
  void operator()(Poller* poller) const { poller->Close(); }
};
using PollerHolder = std::unique_ptr<Poller, PollerCloser>;

}  // namespace vhost_user
