#include "memory_map.h"

#include <algorithm>
#include <cerrno>

#include "javascript.h"

namespace vhost_user {

MemoryMap::Region MemoryMap::Map(Napi::Env env, int fd, uint64_t offset, uint64_t length) {
  Shown shown;
  shown.mapping.reset(new Mapping(fd, offset, length));
  Mapping* mapping = shown.mapping.get();
  Region region{0, mapping, {}};
  std::vector<Window> windows;
  for (uint64_t start = 0; start < length; start += kWindowStride) {
    auto size = static_cast<uint32_t>(std::min(kWindowSpan, length - start));
    windows.push_back({mapping->data() + start, size, mapping});
    napi_value buffer;
    napi_ref reference = nullptr;
    // No finalizer: the mapping ends by Unmap and not by garbage collection. (Node would run a finalizer even
    // when this call fails.)
    napi_status status =
        napi_create_external_arraybuffer(env, mapping->data() + start, size, nullptr, nullptr, &buffer);
    if (status == napi_ok) status = napi_create_reference(env, buffer, 1, &reference);
    if (status != napi_ok) {
      Napi::Error error = Napi::Error::New(env);
      Detach(env, shown.buffers);
      throw error;
    }
    shown.buffers.push_back(reference);
    region.buffers.push_back(buffer);
  }
  region.first_window = FindFree(windows.size());
  std::size_t end = region.first_window + windows.size();
  if (windows_.size() < end) windows_.resize(end);
  std::copy(windows.begin(), windows.end(), windows_.begin() + region.first_window);
  shown_.emplace(region.first_window, std::move(shown));
  return region;
}

bool MemoryMap::Unmap(Napi::Env env, int32_t first_window) {
  auto found = shown_.find(first_window);
  if (found == shown_.end()) return false;
  const std::vector<napi_ref>& buffers = found->second.buffers;
  auto first = windows_.begin() + first_window;
  std::fill(first, first + buffers.size(), Window());
  Detach(env, buffers);
  shown_.erase(found);
  return true;
}

void MemoryMap::UnmapAll(Napi::Env env) {
  while (!shown_.empty()) Unmap(env, shown_.begin()->first);
}

/// The lowest run of free windows, so that the tables of JavaScript stay short.
int32_t MemoryMap::FindFree(std::size_t count) const {
  std::size_t start = 0;
  for (const auto& [first_window, shown] : shown_) {
    if (first_window - start >= count) break;
    start = first_window + shown.buffers.size();
  }
  return static_cast<int32_t>(start);
}

void MemoryMap::Detach(Napi::Env env, const std::vector<napi_ref>& buffers) {
  Napi::HandleScope scope(env);
  for (napi_ref reference : buffers) {
    napi_value buffer;
    if (napi_get_reference_value(env, reference, &buffer) == napi_ok && buffer != nullptr) {
      napi_detach_arraybuffer(env, buffer);
    }
    napi_delete_reference(env, reference);
  }
}

}  // namespace vhost_user
