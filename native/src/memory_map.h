#pragma once

#include <napi.h>

#include <cstdint>
#include <map>
#include <vector>

#include "mapping.h"

namespace vhost_user {

/// Distance of two windows and the most that one shows; the same as in runtime/platform/platform.ts.
constexpr uint64_t kWindowStride = 0x40000000;
constexpr uint64_t kWindowSpan = 0x7fff0000;

/// The mapped memory of one environment, in windows. JavaScript sees each as an ArrayBuffer of its own once
/// it was shown, native code as a place by (window, offset, length), checked here.
class MemoryMap {
 public:
  /// What JavaScript gets to know of a mapping.
  struct Region {
    int32_t first_window;
    uint32_t window_count;
    Mapping* mapping;
  };

  /// Maps memory to consecutive windows. Throws SystemError, and leaves nothing then.
  Region Map(int fd, uint64_t offset, uint64_t length);
  /// The window's ArrayBuffer, made at the first call; null when there is no such window. Throws Napi::Error.
  Napi::Value Show(Napi::Env env, int32_t window);
  /// Detaches the views, so that no JavaScript can reach the memory, and lets go of it. False when there is
  /// none.
  bool Unmap(Napi::Env env, int32_t first_window);
  void UnmapAll(Napi::Env env);

  /// The bytes at a place, or null when it is not inside a window. `mapping` gets the memory they belong to.
  uint8_t* Find(int32_t window, int32_t offset, int32_t length, Mapping** mapping = nullptr) const {
    if (static_cast<uint32_t>(window) >= windows_.size() || (offset | length) < 0) return nullptr;
    const Window& found = windows_[window];
    if (static_cast<uint32_t>(offset) + static_cast<uint32_t>(length) > found.length) return nullptr;
    if (mapping != nullptr) *mapping = found.mapping;
    return found.data + offset;
  }

 private:
  struct Window {
    uint8_t* data = nullptr;
    uint32_t length = 0;
    Mapping* mapping = nullptr;
  };
  struct Mapped {
    MappingHolder mapping;
    std::vector<napi_ref> buffers;  // one a window, null until it is shown
  };

  int32_t FindFree(std::size_t count) const;
  static void Detach(Napi::Env env, const std::vector<napi_ref>& buffers);

  std::vector<Window> windows_;
  std::map<int32_t, Mapped> mapped_;  // by first window
};

void ExportMemory(Napi::Object exports);

}  // namespace vhost_user
