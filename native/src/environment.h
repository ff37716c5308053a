#pragma once

#include <napi.h>
#include <node_api.h>

#include <memory>
#include <set>

#include "block_file.h"
#include "copy_table.h"
#include "libuv.h"
#include "memory_map.h"
#include "slot_table.h"
#include "tap.h"
#include "userfault.h"
#include "watch.h"

namespace vhost_user {

class Poller;

/// Everything the addon holds for one JavaScript environment: the main thread or a worker has one each, and
/// none touches another's, so nothing in here needs a lock.
class Environment {
 public:
  /// Makes the environment's own; it deletes itself when the environment ends. Throws Napi::Error.
  static void Create(Napi::Env env);
  static Environment& Of(napi_env env) {
    void* data = nullptr;
    napi_get_instance_data(env, &data);
    return *static_cast<Environment*>(data);
  }

  Napi::Env env() const { return Napi::Env(env_); }
  uv_loop_s* loop() const { return loop_; }
  /// JavaScript must not be called any more.
  bool closing() const { return cleanup_started_; }

  void AddPoller(Poller* poller) { pollers_.insert(poller); }
  void RemovePoller(Poller* poller);

  MemoryMap memory;
  CopyTable copies;
  TapTables taps;
  SlotTable<std::unique_ptr<Watch>> watches;
  SlotTable<std::unique_ptr<BlockFile>> files;
  SlotTable<std::unique_ptr<Userfault>> userfaults;

 private:
  explicit Environment(Napi::Env env);
  ~Environment() = default;
  void Close();
  void DeleteIfIdle();

  napi_env env_;
  uv_loop_s* loop_ = nullptr;
  std::set<Poller*> pollers_;  // open ones, and those that libuv has not closed yet
  napi_async_cleanup_hook_handle cleanup_ = nullptr;
  bool cleanup_started_ = false;
};

}  // namespace vhost_user
