#include "memory_map.h"

#include <algorithm>
#include <iterator>

#include "javascript.h"

namespace vhost_user {

MemoryMap::Region MemoryMap::Map(int fd, uint64_t offset, uint64_t length) {
  Mapped mapped;
  mapped.mapping.reset(new Mapping(fd, offset, length));
  Mapping* mapping = mapped.mapping.get();
  std::vector<Window> windows;
  for (uint64_t start = 0; start < length; start += kWindowStride) {
    auto size = static_cast<uint32_t>(std::min(kWindowSpan, length - start));
    windows.push_back({mapping->data() + start, size, mapping});
  }
  mapped.buffers.resize(windows.size());
  int32_t first = FindFree(windows.size());
  windows_.resize(std::max(windows_.size(), first + windows.size()));
  std::copy(windows.begin(), windows.end(), windows_.begin() + first);
  mapped_.emplace(first, std::move(mapped));
  return {first, static_cast<uint32_t>(windows.size()), mapping};
}

Napi::Value MemoryMap::Show(Napi::Env env, int32_t window) {
  if (static_cast<uint32_t>(window) >= windows_.size() || windows_[window].data == nullptr) return env.Null();
  auto found = std::prev(mapped_.upper_bound(window));
  napi_ref& reference = found->second.buffers[window - found->first];
  napi_value buffer;
  napi_status status;
  if (reference != nullptr) {
    status = napi_get_reference_value(env, reference, &buffer);
  } else {
    // No finalizer: the mapping ends by Unmap and not by garbage collection. (Node would run a finalizer even
    // when this call fails.)
    const Window& place = windows_[window];
    status = napi_create_external_arraybuffer(env, place.data, place.length, nullptr, nullptr, &buffer);
    if (status == napi_ok) status = napi_create_reference(env, buffer, 1, &reference);
  }
  if (status != napi_ok) throw Napi::Error::New(env);
  return Napi::Value(env, buffer);
}

bool MemoryMap::Unmap(Napi::Env env, int32_t first_window) {
  auto found = mapped_.find(first_window);
  if (found == mapped_.end()) return false;
  const std::vector<napi_ref>& buffers = found->second.buffers;
  auto first = windows_.begin() + first_window;
  std::fill(first, first + buffers.size(), Window());
  Detach(env, buffers);
  mapped_.erase(found);
  return true;
}

void MemoryMap::UnmapAll(Napi::Env env) {
  while (!mapped_.empty()) Unmap(env, mapped_.begin()->first);
}

/// The lowest run of free windows, so that the tables of JavaScript stay short.
int32_t MemoryMap::FindFree(std::size_t count) const {
  std::size_t start = 0;
  for (const auto& [first_window, mapped] : mapped_) {
    if (first_window - start >= count) break;
    start = first_window + mapped.buffers.size();
  }
  return static_cast<int32_t>(start);
}

void MemoryMap::Detach(Napi::Env env, const std::vector<napi_ref>& buffers) {
  Napi::HandleScope scope(env);
  for (napi_ref reference : buffers) {
    if (reference == nullptr) continue;
    napi_value buffer;
    if (napi_get_reference_value(env, reference, &buffer) == napi_ok && buffer != nullptr) {
      napi_detach_arraybuffer(env, buffer);
    }
    napi_delete_reference(env, reference);
  }
}

}  // namespace vhost_user
