#pragma once

#include <napi.h>

#include <cstdint>

#include "native_table.h"

namespace vhost_user {

class MemoryMap;

/// Copies between windows, in bulk, each with a few bytes of its own in front if it likes. An entry is nine
/// int32: from window, from offset, to window, to offset, length, prefix length, prefix (three).
class CopyTable {
 public:
  static constexpr int32_t kCapacity = 4096;
  /// Longest prefix; what follows the bytes in the entry is zero.
  static constexpr int32_t kPrefixMax = 20;

  CopyTable() : entries_(kCapacity * sizeof(Entry)) {}

  const NativeTable& entries() const { return entries_; }
  /// Runs the first `count` entries in order. Returns -1, or the index of an entry out of bounds, with none
  /// run.
  int32_t Run(const MemoryMap& memory, int32_t count) const;

 private:
  struct Entry {
    int32_t from_window, from_offset, to_window, to_offset, length;
    int32_t prefix_length;
    uint8_t prefix[12];

    const uint8_t* Source(const MemoryMap& memory) const;
    /// Where the prefix goes; the copy follows it.
    uint8_t* Target(const MemoryMap& memory) const;
    bool IsInside(const MemoryMap& memory) const;
  };

  NativeTable entries_;
};

void ExportCopies(Napi::Object exports);

}  // namespace vhost_user
