#include "block_file.h"

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <limits>
#include <utility>

#include "environment.h"
#include "javascript.h"

namespace vhost_user {
namespace {

constexpr int32_t kSegments = 2048;
constexpr uint64_t kDirectAlignment = 4096;  // enough for every device and file system

/// A count of bytes that came as a Number: a whole one, below 2^53.
bool ToBytes(double value, uint64_t* bytes) {
  if (!(value >= 0 && value < 9007199254740992.0) || value != std::floor(value)) return false;
  *bytes = static_cast<uint64_t>(value);
  return true;
}

bool IsAligned(const Operation& operation) {
  if (operation.position % kDirectAlignment != 0) return false;
  return std::all_of(operation.vectors.begin(), operation.vectors.end(), [](const iovec& vector) {
    return (reinterpret_cast<uintptr_t>(vector.iov_base) | vector.iov_len) % kDirectAlignment == 0;
  });
}

/// Pages of its memory may be missing (postcopy): whoever moves its bytes waits for them, and that must not
/// be the loop.
bool MayWait(const Operation& operation) {
  const auto& mappings = operation.mappings;
  return std::any_of(mappings.begin(), mappings.end(), [](const Mapping* each) { return each->may_wait(); });
}

}  // namespace

BlockFile::BlockFile(Environment& environment, Image image, bool threads, Napi::Function callback)
    : environment_(environment),
      image_(std::move(image)),
      callback_(std::make_shared<Napi::FunctionReference>(Napi::Persistent(callback))),
      operations_(kOperations * sizeof(Row)),
      places_(kOperations * sizeof(Place)),
      segments_(kSegments * sizeof(Segment)),
      completions_(kOperations * 2 * sizeof(int32_t)),
      pool_(std::make_unique<ThreadPool>()) {
  auto open = [&](int fd) {
    PollerHolder poller(Poller::Open(environment, fd, [this](int status, int) { OnEnded(status); }));
    poller->SetReferenced(false);
    if (int status = poller->Start(kUvReadable); status < 0) Fail("epoll_ctl", -status);
    return poller;
  };
  pool_poller_ = open(pool_->fd());
  if (!threads) ring_ = IoRing::Create();
  if (ring_) ring_poller_ = open(ring_->fd());
}

BlockFile::~BlockFile() {
  // Work is under way only when the environment is torn down. Waiting for a stalled disk would hang the
  // program's end, so its operations are left behind with all that they use: the memory stays mapped, the
  // file open.
  if (running_ > 0) {
    pool_->Abandon();
    image_.file.Release();
    image_.direct.Release();
  }
  // Before the fds are closed: libuv takes them out of its epoll set at once.
  ring_poller_.reset();
  pool_poller_.reset();
}

void BlockFile::GrowSegments(int32_t count) {
  std::size_t bytes = segments_.size();
  while (bytes < count * sizeof(Segment)) bytes *= 2;
  if (bytes > segments_.size()) segments_ = NativeTable(bytes);
}

void BlockFile::Submit(int32_t count) {
  const auto* rows = operations_.As<Row>();
  const auto* places = places_.As<Place>();
  const auto* segments = segments_.As<Segment>();
  const auto* end = segments + segments_.size() / sizeof(Segment);
  for (int32_t i = 0; i < std::min(count, kOperations); i++) {
    int32_t taken = std::clamp<int64_t>(rows[i].segment_count, 0, end - segments);
    Row row{rows[i].kind, rows[i].token, taken, 0};
    Begin(row, places[i], segments);
    segments += taken;
  }
  Flush();
}

void BlockFile::Begin(const Row& row, const Place& place, const Segment* segments) {
  std::unique_ptr<Operation> operation;
  if (spare_.empty()) {
    operation = std::make_unique<Operation>();
  } else {
    operation = std::move(spare_.back());
    spare_.pop_back();
  }
  int32_t error = Prepare(*operation, row, place, segments);
  if (error != 0) operation->result = error;
  if (error != 0 || TryAtOnce(*operation)) {
    results_.insert(results_.end(), {operation->token, operation->result});
    return End(std::move(operation));
  }
  operation->Hold();
  Start(operation.release());
  running_++;
}

/// Returns 0 or a negative errno.
int32_t BlockFile::Prepare(Operation& operation, const Row& row, const Place& place,
                           const Segment* segments) {
  operation.kind = static_cast<OperationKind>(row.kind);
  operation.token = row.token;
  operation.vectors.clear();
  operation.next_vector = 0;
  operation.moved = 0;
  operation.result = 0;
  operation.mappings.clear();
  operation.held = false;
  operation.fd = image_.file.get();
  if (row.kind < 0 || row.kind > static_cast<int32_t>(OperationKind::kWriteZeroesUnmap)) return -EINVAL;
  if (!ToBytes(place.position, &operation.position) || !ToBytes(place.length, &operation.length))
    return -EINVAL;
  bool writes = operation.kind != OperationKind::kRead && operation.kind != OperationKind::kFlush;
  if (writes && image_.read_only) return -EBADF;
  if (!operation.transfers()) return 0;
  int32_t error = AddSegments(operation, segments, row.segment_count);
  if (error == 0) ChooseFile(operation);
  return error;
}

int32_t BlockFile::AddSegments(Operation& operation, const Segment* segments, int32_t count) {
  uint64_t total = 0;
  for (int32_t i = 0; i < count; i++) {
    const Segment& segment = segments[i];
    Mapping* mapping;
    uint8_t* data = environment_.memory.Find(segment.window, segment.offset, segment.length, &mapping);
    if (data == nullptr) return -EFAULT;
    if (segment.length == 0) continue;
    operation.vectors.push_back({data, static_cast<std::size_t>(segment.length)});
    total += static_cast<uint64_t>(segment.length);
    auto& mappings = operation.mappings;
    if (std::find(mappings.begin(), mappings.end(), mapping) == mappings.end()) mappings.push_back(mapping);
  }
  operation.length = total;
  // The result is an int32.
  return total > static_cast<uint64_t>(std::numeric_limits<int32_t>::max()) ? -EINVAL : 0;
}

/// O_DIRECT takes aligned requests only; a guest may send others, and they go through the page cache.
void BlockFile::ChooseFile(Operation& operation) const {
  if (image_.direct && IsAligned(operation)) operation.fd = image_.direct.get();
}

/// True when the operation has ended.
bool BlockFile::TryAtOnce(Operation& operation) {
  if (!operation.transfers()) return false;
  if (operation.vectors.empty()) return true;
  if (operation.length > kInlineBytes || MayWait(operation)) return false;
  if (image_.in_memory) return Transfer(operation, 0, nullptr);
  bool& supported = nowait_[operation.kind == OperationKind::kWrite];
  // O_DIRECT: RWF_NOWAIT does not wait for a place in the queue, but it does wait for the disk.
  if (!supported || operation.fd == image_.direct.get()) return false;
  // One miss may begin to read ahead here. Behind it, misses would pile up until the device takes no more and
  // the call waits after all. Looking first costs as much as a short read, so only then.
  bool behind = operation.kind == OperationKind::kRead && running_ > 0;
  if (behind && !page_cache_.MayHold(operation.fd, operation.position, operation.length)) return false;
  return Transfer(operation, RWF_NOWAIT, &supported);
}

void BlockFile::Start(Operation* operation) {
  bool ring = ring_ && (operation->transfers() || operation->kind == OperationKind::kFlush);
  if (!ring) return pool_->Queue(operation);
  // What goes through the page cache is not tried inside of io_uring_enter: that would be on the loop again,
  // with all that RWF_NOWAIT waits for. Nor is what waits for pages of memory.
  bool buffered = operation->fd == image_.file.get();
  ring_->Queue(operation, (buffered && operation->transfers()) || MayWait(*operation));
}

void BlockFile::Flush() {
  if (ring_ && !ring_->Flush()) MoveToThreads();
  pool_->Flush();
  SetRunning(running_);
}

void BlockFile::MoveToThreads() {
  for (Operation* operation : ring_->TakeWaiting()) pool_->Queue(operation);
}

/// The pollers keep the process alive as long as there is something to wait for, and no longer.
void BlockFile::SetRunning(int32_t running) {
  running_ = running;
  pool_poller_->SetReferenced(running > 0);
  if (ring_poller_) ring_poller_->SetReferenced(running > 0);
}

void BlockFile::End(std::unique_ptr<Operation> operation) {
  operation->Unhold();
  if (spare_.size() < kOperations) spare_.push_back(std::move(operation));
}

void BlockFile::OnEnded(int) {
  std::vector<Operation*> ended;
  pool_->Reap(ended);
  if (ring_ && !ring_->Reap(ended)) MoveToThreads();
  pool_->Flush();
  if (ended.empty()) return;
  // Results of a Submit that was not published yet keep for it.
  std::vector<int32_t> unpublished = std::exchange(results_, {});
  for (Operation* operation : ended) {
    results_.insert(results_.end(), {operation->token, operation->result});
    End(std::unique_ptr<Operation>(operation));
  }
  SetRunning(running_ - static_cast<int32_t>(ended.size()));
  int32_t count = Publish();
  results_ = std::move(unpublished);
  // JavaScript may close the file in here: nothing of it is touched afterwards.
  auto callback = callback_;
  if (!environment_.closing()) CallFromLoop(environment_.env(), *callback, count);
}

int32_t BlockFile::Publish() {
  std::size_t bytes = results_.size() * sizeof(int32_t);
  if (bytes > completions_.size()) completions_ = NativeTable(std::max(bytes, 2 * completions_.size()));
  std::copy(results_.begin(), results_.end(), completions_.As<int32_t>());
  auto count = static_cast<int32_t>(results_.size() / 2);
  results_.clear();
  return count;
}

}  // namespace vhost_user
