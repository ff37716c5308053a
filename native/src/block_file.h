#pragma once

#include <napi.h>

#include <cstdint>
#include <memory>
#include <vector>

#include "image.h"
#include "io_ring.h"
#include "native_table.h"
#include "operation.h"
#include "page_cache.h"
#include "poller.h"
#include "thread_pool.h"

namespace vhost_user {

class Environment;

/// Reads and writes between windows and an image. JavaScript writes operations into the tables and calls
/// `Submit`. What the page cache holds ends there and then (RWF_NOWAIT); the rest, and everything that
/// always may block, is given to io_uring or to the threads, and ends through the callback.
class BlockFile {
 public:
  static constexpr int32_t kOperations = 256;
  /// Longer reads and writes are not done on the loop even from the page cache: the copy itself would hold it
  /// up.
  static constexpr uint64_t kInlineBytes = 1 << 20;

  /// `threads`: do without io_uring. Throws SystemError.
  BlockFile(Environment& environment, Image image, bool threads, Napi::Function callback);
  ~BlockFile();

  /// Starts the first `count` operations of the table. Results of those that ended are kept until `Publish`.
  void Submit(int32_t count);
  /// Puts the kept results into the completion table, which grows when needed. Returns how many they are.
  int32_t Publish();
  /// Makes room for an operation of that many segments.
  void GrowSegments(int32_t count);

  const Image& image() const { return image_; }
  const NativeTable& operations() const { return operations_; }
  const NativeTable& places() const { return places_; }
  const NativeTable& segments() const { return segments_; }
  const NativeTable& completions() const { return completions_; }

 private:
  // The rows of the tables; a place is two Float64 beside them.
  struct Row {
    int32_t kind, token, segment_count, unused;
  };
  struct Place {
    double position, length;
  };
  struct Segment {
    int32_t window, offset, length;
  };

  void Begin(const Row& row, const Place& place, const Segment* segments);
  int32_t Prepare(Operation& operation, const Row& row, const Place& place, const Segment* segments);
  int32_t AddSegments(Operation& operation, const Segment* segments, int32_t count);
  void ChooseFile(Operation& operation) const;
  bool TryAtOnce(Operation& operation);
  void Start(Operation* operation);
  void Flush();
  void MoveToThreads();
  void OnEnded(int status);
  void SetRunning(int32_t running);
  void End(std::unique_ptr<Operation> operation);

  Environment& environment_;
  Image image_;
  std::shared_ptr<Napi::FunctionReference> callback_;
  NativeTable operations_;
  NativeTable places_;
  NativeTable segments_;
  NativeTable completions_;
  std::vector<int32_t> results_;  // pairs (token, result) not published yet
  std::vector<std::unique_ptr<Operation>> spare_;
  bool nowait_[2] = {true, true};  // whether the file knows RWF_NOWAIT for reads, for writes
  PageCache page_cache_;
  int32_t running_ = 0;  // with the ring or the threads

  std::unique_ptr<IoRing> ring_;
  std::unique_ptr<ThreadPool> pool_;
  PollerHolder ring_poller_;
  PollerHolder pool_poller_;
};

void ExportBlockFiles(Napi::Object exports);

}  // namespace vhost_user
