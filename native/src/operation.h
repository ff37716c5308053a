#pragma once

#include <sys/uio.h>

#include <cstddef>
#include <cstdint>
#include <vector>

#include "mapping.h"

namespace vhost_user {

/// The numbers of BlockOperation in runtime/platform/platform.ts.
enum class OperationKind : int32_t { kRead, kWrite, kFlush, kDiscard, kWriteZeroes, kWriteZeroesUnmap };

/// One operation on a file that is under way.
struct Operation {
  OperationKind kind;
  int32_t token;
  int fd;
  uint64_t position;
  uint64_t length;  // discard and zeroes
  std::vector<iovec> vectors;
  std::size_t next_vector;  // those before it are done
  int64_t moved;
  int32_t result;
  std::vector<Mapping*> mappings;  // what the vectors point into; held while `held`
  bool held;

  bool transfers() const { return kind == OperationKind::kRead || kind == OperationKind::kWrite; }

  /// Takes `bytes` off the front of what is still to be moved.
  void Advance(std::size_t bytes) {
    moved += static_cast<int64_t>(bytes);
    while (bytes > 0) {
      iovec& vector = vectors[next_vector];
      if (bytes < vector.iov_len) {
        vector.iov_base = static_cast<uint8_t*>(vector.iov_base) + bytes;
        vector.iov_len -= bytes;
        return;
      }
      bytes -= vector.iov_len;
      next_vector++;
    }
  }

  /// Keeps the memory mapped until `Unhold`, even if JavaScript unmaps it meanwhile.
  void Hold() {
    for (Mapping* mapping : mappings) mapping->Retain();
    held = true;
  }
  void Unhold() {
    if (!held) return;
    for (Mapping* mapping : mappings) mapping->Release();
    held = false;
  }
};

/// Moves bytes until all are moved, the file ends or an error comes, and sets `result`. With RWF_NOWAIT in
/// `flags` it returns false when it would have to wait; `moved` says how far it came. `*supported` becomes
/// false when the file knows no RWF_NOWAIT.
bool Transfer(Operation& operation, int flags, bool* supported);

/// Takes the outcome of one read or write system call, which is a count or a negative errno. True when the
/// operation has ended; false when the rest is to be tried again.
bool TakeOutcome(Operation& operation, int64_t outcome);

/// How many vectors the next call may be given.
int VectorCount(const Operation& operation);

/// Carries out any operation, however long it takes, and sets `result`.
void Perform(Operation& operation);

}  // namespace vhost_user
