#include "copy_table.h"

#include <algorithm>
#include <cstring>

#include "environment.h"
#include "javascript.h"
#include "memory_map.h"

namespace vhost_user {

namespace {

constexpr std::size_t kLine = 64;
/// Entries whose lines are fetched ahead, and how many of each one's; the processor finds the others by
/// itself.
constexpr int32_t kAhead = 16;
constexpr int32_t kLinesAhead = 4;

/// Fetches a line to write it. The built-in needs a compiler's option for that, and without it fetches for
/// reading: the line would come a second time, from the processor that had it, when it is written.
inline void FetchForWriting(const uint8_t* at) {
#if defined(__x86_64__)
  asm volatile("prefetchw %0" : : "m"(*at));
#else
  __builtin_prefetch(at, 1);
#endif
}

inline void Fetch(const uint8_t* from, uint8_t* to, int32_t length) {
  int32_t bytes = std::min(length, static_cast<int32_t>(kLinesAhead * kLine));
  for (int32_t i = 0; i < bytes; i += kLine) {
    __builtin_prefetch(from + i, 0);
    FetchForWriting(to + i);
  }
}

}  // namespace

inline const uint8_t* CopyTable::Entry::Source(const MemoryMap& memory) const {
  return memory.Find(from_window, from_offset, length);
}

inline uint8_t* CopyTable::Entry::Target(const MemoryMap& memory) const {
  return memory.Find(to_window, to_offset, prefix_length + length);
}

inline bool CopyTable::Entry::IsInside(const MemoryMap& memory) const {
  if (prefix_length < 0 || prefix_length > kPrefixMax || length > INT32_MAX - kPrefixMax) return false;
  return Source(memory) != nullptr && Target(memory) != nullptr;
}

int32_t CopyTable::Run(const MemoryMap& memory, int32_t count) const {
  const auto* entries = entries_.As<Entry>();
  for (int32_t i = 0; i < count; i++) {
    if (!entries[i].IsInside(memory)) return i;
  }
  // Another processor had these lines last, mostly: with many under way at a time most of the wait is hidden.
  auto fetch = [&](const Entry& entry) {
    Fetch(entry.Source(memory), entry.Target(memory), entry.prefix_length + entry.length);
  };
  for (int32_t i = 0; i < std::min(kAhead, count); i++) fetch(entries[i]);
  for (int32_t i = 0; i < count; i++) {
    if (i + kAhead < count) fetch(entries[i + kAhead]);
    const Entry& entry = entries[i];
    uint8_t* to = entry.Target(memory);
    // memmove: the driver may have laid the two over each other.
    std::memmove(to + entry.prefix_length, entry.Source(memory), entry.length);
    if (entry.prefix_length == sizeof entry.prefix) {
      std::memcpy(to, entry.prefix, sizeof entry.prefix);
    } else if (entry.prefix_length > 0) {
      uint8_t prefix[kPrefixMax] = {};
      std::memcpy(prefix, entry.prefix, sizeof entry.prefix);
      std::memcpy(to, prefix, entry.prefix_length);
    }
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
