#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>
#include <vector>

namespace vhost_user {

/// Gives objects small numbers, by which JavaScript names them: cheaper to pass than a wrapped object,
/// checked on every use, and freed exactly when JavaScript says so. Numbers are reused; `Item` is a pointer
/// type.
template <typename Item>
class SlotTable {
 public:
  int32_t Add(Item item) {
    if (free_.empty()) {
      items_.push_back(std::move(item));
      return static_cast<int32_t>(items_.size() - 1);
    }
    int32_t slot = free_.back();
    free_.pop_back();
    items_[slot] = std::move(item);
    return slot;
  }

  /// The item, or null when the number names none.
  Item* Find(int32_t slot) {
    if (static_cast<uint32_t>(slot) >= items_.size() || !items_[slot]) return nullptr;
    return &items_[slot];
  }

  Item Remove(int32_t slot) {
    free_.push_back(slot);
    return std::exchange(items_[slot], Item());
  }

  /// Takes all items out.
  std::vector<Item> Clear() {
    free_.clear();
    return std::exchange(items_, {});
  }

 private:
  std::vector<Item> items_;
  std::vector<int32_t> free_;
};

}  // namespace vhost_user
