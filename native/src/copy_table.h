#pragma once

#include <napi.h>

#include <cstdint>

#include "native_table.h"

namespace vhost_user {

class MemoryMap;

/// Copies between windows, in bulk. An entry is five int32: from window, from offset, to window, to offset,
/// length.
class CopyTable {
 public:
  static constexpr int32_t kCapacity = 4096;

  CopyTable() : entries_(kCapacity * sizeof(Entry)) {}

  const NativeTable& entries() const { return entries_; }
  /// Runs the first `count` entries in order. Returns -1, or the index of an entry out of bounds, with none
  /// run.
  int32_t Run(const MemoryMap& memory, int32_t count) const;

 private:
  struct Entry {
    int32_t from_window, from_offset, to_window, to_offset, length;
  };

  NativeTable entries_;
};

void ExportCopies(Napi::Object exports);

}  // namespace vhost_user
