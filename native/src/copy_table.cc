#include "copy_table.h"

#include <algorithm>
#include <cstring>

#include "environment.h"
#include "javascript.h"
#include "memory_map.h"

namespace vhost_user {

int32_t CopyTable::Run(const MemoryMap& memory, int32_t count) const {
  const auto* entries = entries_.As<Entry>();
  for (int32_t i = 0; i < count; i++) {
    const Entry& entry = entries[i];
    const uint8_t* from = memory.Find(entry.from_window, entry.from_offset, entry.length);
    const uint8_t* to = memory.Find(entry.to_window, entry.to_offset, entry.length);
    if (from == nullptr || to == nullptr) return i;
    // Another processor had these lines last, mostly: fetching all of them side by side hides most of the
    // way.
    __builtin_prefetch(from, 0);
    __builtin_prefetch(to, 1);
  }
  for (int32_t i = 0; i < count; i++) {
    const Entry& entry = entries[i];
    // memmove: the driver may have laid the two over each other.
    std::memmove(memory.Find(entry.to_window, entry.to_offset, entry.length),
                 memory.Find(entry.from_window, entry.from_offset, entry.length), entry.length);
  }
  return -1;
}

namespace {

/// copyEntries() -> ArrayBuffer of the table
Napi::Value Entries(const Napi::CallbackInfo& info) {
  return Environment::Of(info.Env()).copies.entries().ToArrayBuffer(info.Env());
}

/// copyRun(count) -> -1, or the index of the bad entry; `count` itself when it is more than the table holds
napi_value Run(napi_env env, napi_callback_info info) {
  int32_t arguments[1];
  ReadInts(env, info, arguments);
  auto& environment = Environment::Of(env);
  int32_t count = arguments[0];
  if (count < 0 || count > CopyTable::kCapacity) return ToInt(env, std::max(count, 0));
  return ToInt(env, environment.copies.Run(environment.memory, count));
}

}  // namespace

void ExportCopies(Napi::Object exports) {
  Export<Entries>(exports, "copyEntries");
  ExportRaw(exports, "copyRun", Run);
}

}  // namespace vhost_user
