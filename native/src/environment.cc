#include "environment.h"

#include "javascript.h"
#include "poller.h"

namespace vhost_user {

void Environment::Create(Napi::Env env) {
  new Environment(env);
}

Environment::Environment(Napi::Env env) : env_(env) {
  // An asynchronous hook: libuv needs a turn of the loop to let go of its handles.
  auto hook = [](napi_async_cleanup_hook_handle, void* self) { static_cast<Environment*>(self)->Close(); };
  bool ready = napi_get_uv_event_loop(env, &loop_) == napi_ok &&
               napi_set_instance_data(env, this, nullptr, nullptr) == napi_ok &&
               napi_add_async_cleanup_hook(env, hook, this, &cleanup_) == napi_ok;
  if (!ready) throw Napi::Error::New(env);
}

void Environment::RemovePoller(Poller* poller) {
  pollers_.erase(poller);
  DeleteIfIdle();
}

void Environment::Close() {
  cleanup_started_ = true;
  Napi::HandleScope scope(env_);
  files.Clear();
  watches.Clear();
  userfaults.Clear();
  memory.UnmapAll(env_);
  DeleteIfIdle();
}

void Environment::DeleteIfIdle() {
  if (!cleanup_started_ || !pollers_.empty()) return;
  napi_async_cleanup_hook_handle cleanup = cleanup_;
  delete this;
  napi_remove_async_cleanup_hook(cleanup);
}

}  // namespace vhost_user
