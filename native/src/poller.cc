#include "poller.h"

#include <cstdlib>
#include <utility>

#include "environment.h"
#include "javascript.h"

namespace vhost_user {

Poller* Poller::Open(Environment& environment, int fd, Callback callback) {
  auto* poller = new Poller(environment, std::move(callback));
  int status = uv_poll_init(environment.loop(), poller->handle_, fd);
  if (status < 0) {
    delete poller;  // libuv does not know the handle: it was never initialised
    Fail("epoll_ctl", -status);
  }
  uv_handle_set_data(poller->handle_, poller);
  environment.AddPoller(poller);
  return poller;
}

Poller::Poller(Environment& environment, Callback callback)
    : environment_(environment),
      callback_(std::move(callback)),
      handle_(static_cast<uv_handle_s*>(std::calloc(1, uv_handle_size(kUvPollType)))) {}

Poller::~Poller() {
  std::free(handle_);
}

int Poller::Start(int events) {
  return uv_poll_start(handle_, events, OnEvent);
}

void Poller::Stop() {
  uv_poll_stop(handle_);
}

void Poller::SetReferenced(bool referenced) {
  referenced ? uv_ref(handle_) : uv_unref(handle_);
}

void Poller::Close() {
  if (std::exchange(closing_, true)) return;
  uv_close(handle_, OnClosed);
}

void Poller::OnEvent(uv_handle_s* handle, int status, int events) {
  auto* poller = static_cast<Poller*>(uv_handle_get_data(handle));
  if (!poller->closing_) poller->callback_(status, events);
}

void Poller::OnClosed(uv_handle_s* handle) {
  auto* poller = static_cast<Poller*>(uv_handle_get_data(handle));
  poller->environment_.RemovePoller(poller);
  delete poller;
}

}  // namespace vhost_user
