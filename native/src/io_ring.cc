#include "io_ring.h"

#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "javascript.h"

namespace vhost_user {
namespace {

constexpr uint32_t kSubmissionEntries = 128;
constexpr uint32_t kCompletionEntries = 1024;

// The rings are shared with the kernel: an index is published after what it covers, and read before it.
uint32_t Acquire(const uint32_t* index) {
  return __atomic_load_n(index, __ATOMIC_ACQUIRE);
}
void Publish(uint32_t* index, uint32_t value) {
  __atomic_store_n(index, value, __ATOMIC_RELEASE);
}

}  // namespace

SharedRegion::SharedRegion(int fd, std::size_t length, uint64_t offset) : length_(length) {
  base_ = mmap(nullptr, length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd,
               static_cast<off_t>(offset));
  if (base_ != MAP_FAILED) return;
  base_ = nullptr;
  Fail("mmap");
}

SharedRegion::SharedRegion(SharedRegion&& other) noexcept
    : base_(std::exchange(other.base_, nullptr)), length_(other.length_) {}

SharedRegion& SharedRegion::operator=(SharedRegion&& other) noexcept {
  std::swap(base_, other.base_);
  std::swap(length_, other.length_);
  return *this;
}

SharedRegion::~SharedRegion() {
  if (base_ != nullptr) munmap(base_, length_);
}

std::unique_ptr<IoRing> IoRing::Create() {
  io_uring_params parameters{};
  parameters.flags = IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP;
  parameters.cq_entries = kCompletionEntries;
  UniqueFd fd(static_cast<int>(syscall(__NR_io_uring_setup, kSubmissionEntries, &parameters)));
  constexpr uint32_t kNeeded = IORING_FEAT_SINGLE_MMAP | IORING_FEAT_NODROP | IORING_FEAT_SUBMIT_STABLE;
  if (!fd || (parameters.features & kNeeded) != kNeeded) return nullptr;

  std::unique_ptr<IoRing> ring(new IoRing);
  const io_sqring_offsets& submission = parameters.sq_off;
  const io_cqring_offsets& completion = parameters.cq_off;
  std::size_t length = std::max(submission.array + parameters.sq_entries * sizeof(uint32_t),
                                completion.cqes + parameters.cq_entries * sizeof(io_uring_cqe));
  try {
    ring->rings_ = SharedRegion(fd.get(), length, IORING_OFF_SQ_RING);
    ring->entries_ = SharedRegion(fd.get(), parameters.sq_entries * sizeof(io_uring_sqe), IORING_OFF_SQES);
  } catch (const SystemError&) {
    return nullptr;
  }
  ring->fd_ = std::move(fd);
  ring->submission_head_ = ring->rings_.At<uint32_t>(submission.head);
  ring->submission_tail_ = ring->rings_.At<uint32_t>(submission.tail);
  ring->submission_mask_ = *ring->rings_.At<uint32_t>(submission.ring_mask);
  ring->submission_size_ = parameters.sq_entries;
  ring->completion_head_ = ring->rings_.At<uint32_t>(completion.head);
  ring->completion_tail_ = ring->rings_.At<uint32_t>(completion.tail);
  ring->completion_mask_ = *ring->rings_.At<uint32_t>(completion.ring_mask);
  ring->completion_size_ = parameters.cq_entries;
  ring->completions_offset_ = completion.cqes;
  // The indirection array is not used: place i always holds entry i.
  auto* array = ring->rings_.At<uint32_t>(submission.array);
  for (uint32_t i = 0; i < parameters.sq_entries; i++) array[i] = i;
  return ring;
}

void IoRing::Queue(Operation* operation, bool asynchronous) {
  waiting_.push_back({operation, asynchronous});
}

bool IoRing::Flush() {
  for (;;) {
    Fill();
    if (filled_ == 0) return true;
    long taken = syscall(__NR_io_uring_enter, fd_.get(), filled_, 0, 0, nullptr, 0);
    if (taken < 0 && errno == EINTR) continue;
    // EAGAIN, EBUSY: no room in the kernel. It is tried again when something has ended.
    if (taken <= 0) return running_ > 0;
    filled_ -= static_cast<uint32_t>(taken);
    running_ += static_cast<uint32_t>(taken);
  }
}

/// Moves waiting operations into the submission ring, as long as the completion ring has room for all that
/// runs.
void IoRing::Fill() {
  uint32_t tail = *submission_tail_;
  uint32_t head = Acquire(submission_head_);
  auto* entries = entries_.At<io_uring_sqe>(0);
  while (!waiting_.empty() && tail - head < submission_size_ && running_ + filled_ < completion_size_) {
    Encode(waiting_.front(), entries[tail & submission_mask_]);
    waiting_.pop_front();
    tail++;
    filled_++;
  }
  Publish(submission_tail_, tail);
}

void IoRing::Encode(const Waiting& waiting, io_uring_sqe& entry) {
  Operation& operation = *waiting.operation;
  std::memset(&entry, 0, sizeof entry);
  entry.fd = operation.fd;
  entry.user_data = reinterpret_cast<uintptr_t>(&operation);
  if (operation.kind == OperationKind::kFlush) {
    entry.opcode = IORING_OP_FSYNC;
    entry.fsync_flags = IORING_FSYNC_DATASYNC;
    return;
  }
  entry.opcode = operation.kind == OperationKind::kRead ? IORING_OP_READV : IORING_OP_WRITEV;
  entry.flags = waiting.asynchronous ? IOSQE_ASYNC : 0;
  entry.off = operation.position + static_cast<uint64_t>(operation.moved);
  entry.addr = reinterpret_cast<uintptr_t>(operation.vectors.data() + operation.next_vector);
  entry.len = static_cast<uint32_t>(VectorCount(operation));
}

std::vector<Operation*> IoRing::TakeWaiting() {
  std::vector<Operation*> operations;
  // The kernel reads the submission ring inside of io_uring_enter only, so what it has not taken can be taken
  // back.
  auto* entries = entries_.At<io_uring_sqe>(0);
  uint32_t tail = *submission_tail_;
  for (uint32_t i = tail - filled_; i != tail; i++) {
    operations.push_back(reinterpret_cast<Operation*>(entries[i & submission_mask_].user_data));
  }
  Publish(submission_tail_, tail - filled_);
  filled_ = 0;
  for (const Waiting& waiting : waiting_) operations.push_back(waiting.operation);
  waiting_.clear();
  return operations;
}

bool IoRing::Reap(std::vector<Operation*>& ended) {
  const auto* completions = rings_.At<io_uring_cqe>(completions_offset_);
  uint32_t head = *completion_head_;
  uint32_t tail = Acquire(completion_tail_);
  for (; head != tail; head++) {
    const io_uring_cqe& completion = completions[head & completion_mask_];
    auto* operation = reinterpret_cast<Operation*>(completion.user_data);
    running_--;
    bool again = completion.res == -EAGAIN || completion.res == -EINTR;
    if (operation->transfers() && !again) again = !TakeOutcome(*operation, completion.res);
    if (!operation->transfers()) operation->result = completion.res;
    if (again) {
      Queue(operation, true);
    } else {
      ended.push_back(operation);
    }
  }
  Publish(completion_head_, head);
  return Flush();
}

}  // namespace vhost_user
