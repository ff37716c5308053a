#include "mapping.h"

#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <utility>

#include "fd.h"
#include "javascript.h"
#include "sigbus_guard.h"
#include "userfault.h"

namespace vhost_user {
namespace {

/// The unit of mapping: files of huge pages take offsets and lengths in huge pages only.
uint64_t PageSize(int fd) {
  struct statfs system;
  Check("fstatfs", fstatfs(fd, &system));
  bool huge = static_cast<unsigned long>(system.f_type) == HUGETLBFS_MAGIC;
  return huge ? static_cast<uint64_t>(system.f_bsize) : static_cast<uint64_t>(sysconf(_SC_PAGESIZE));
}

/// Memory behind the end of a file maps without complaint and kills whoever touches it.
void CheckFileHolds(int fd, uint64_t end) {
  struct stat file;
  Check("fstat", fstat(fd, &file));
  if (S_ISCHR(file.st_mode)) return;  // memory devices (dax) have no size here; mmap checks it
  if (end > FileSize(fd)) Fail("mmap", EOVERFLOW);
}

}  // namespace

Mapping::Mapping(int fd, uint64_t offset, uint64_t length) {
  // Offsets and lengths have 63 bits, so the sum cannot wrap. Views of 32-bit words need an aligned start.
  if (length == 0 || offset % alignof(uint64_t) != 0) Fail("mmap", EINVAL);
  CheckFileHolds(fd, offset + length);
  uint64_t page = PageSize(fd);
  uint64_t start = offset / page * page;
  mapped_length_ = (offset + length - start + page - 1) / page * page;
  base_ = mmap(nullptr, mapped_length_, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd,
               static_cast<off_t>(start));
  if (base_ == MAP_FAILED) Fail("mmap");
  // A core dump is of this program, not of the guest. Failing to say so harms nobody.
  madvise(base_, mapped_length_, MADV_DONTDUMP);
  data_ = static_cast<uint8_t*>(base_) + (offset - start);
  int guard = GuardRange(base_, mapped_length_, page);
  if (guard < 0) {
    munmap(base_, mapped_length_);
    Fail("mmap", ENOMEM);
  }
  guard_ = static_cast<uint32_t>(guard);
}

void Mapping::CatchFaults(std::shared_ptr<FaultedRanges> faults) {
  faults->Register(base_, mapped_length_, guard_);
  faults_ = std::move(faults);
}

bool Mapping::may_wait() const {
  return faults_ != nullptr && faults_->active();
}

Mapping::~Mapping() {
  if (faults_) faults_->Forget(base_);
  UnguardRange(guard_);  // first: the handler must never lay pages over somebody else's memory
  munmap(base_, mapped_length_);
}

}  // namespace vhost_user
