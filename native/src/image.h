#pragma once

#include <cstdint>
#include <string>

#include "unique_fd.h"

namespace vhost_user {

/// An open image, and what was found out about it.
struct Image {
  /// Throws SystemError; EISDIR, ENOTBLK for what is neither a regular file nor a block device, EROFS for
  /// what cannot be written and is to be.
  static Image Open(const std::string& path, bool read_only, bool direct);

  UniqueFd file;
  UniqueFd direct;  // the same with O_DIRECT, for aligned reads and writes; closed unless asked for
  uint32_t block_size;
  bool read_only;
  bool in_memory;  // cannot block
  bool can_discard;
  int32_t lock_error;  // why the mark of image_lock.h is not on it; 0 when it is
};

}  // namespace vhost_user
