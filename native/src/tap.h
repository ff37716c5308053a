#pragma once

#include <napi.h>

#include <cstdint>

#include "native_table.h"

namespace vhost_user {

class MemoryMap;

/// Packets on their way to and from TAP devices. Each has a header of 12 bytes in front (virtio_net_hdr_v1).
class TapTables {
 public:
  static constexpr int32_t kRows = 256;
  static constexpr int32_t kSegments = 4096;
  static constexpr int32_t kHeader = 12;

  TapTables()
      : rows_(kRows * sizeof(Row)),
        segments_(kSegments * sizeof(Segment)),
        lengths_(kRows * sizeof(int32_t)) {}

  /// Five int32: three words of the header, first segment, number of segments.
  const NativeTable& rows() const { return rows_; }
  /// Three int32: window, offset, length.
  const NativeTable& segments() const { return segments_; }
  /// What `Read` got, header included, or what `Write` did: 0, or a negative errno for a packet that is lost.
  const NativeTable& lengths() const { return lengths_; }

  /// Writes the first `count` packets. Returns how many are done with; fewer when the device takes no more
  /// now.
  int32_t Write(const MemoryMap& memory, int fd, int32_t count) const;
  /// Reads up to `count` packets into slots of `stride` bytes from a place on. Returns how many there were,
  /// or a negative errno when the first attempt failed.
  int32_t Read(const MemoryMap& memory, int fd, int32_t window, int32_t offset, int32_t stride,
               int32_t count) const;

 private:
  struct Row {
    int32_t header[3], first, count;
  };
  struct Segment {
    int32_t window, offset, length;
  };

  int WriteOne(const MemoryMap& memory, int fd, const Row& row) const;

  NativeTable rows_, segments_, lengths_;
};

void ExportTaps(Napi::Object exports);

}  // namespace vhost_user
