#pragma once

#include <napi.h>

#include <cstdint>

namespace vhost_user {

/// Size in bytes of a regular file or a block device. Throws SystemError.
uint64_t FileSize(int fd);
/// Whether the file lives in memory alone (tmpfs, ramfs, hugetlbfs), so that reading and writing it cannot
/// block.
bool IsMemoryFileSystem(int fd);

void ExportFds(Napi::Object exports);

}  // namespace vhost_user
