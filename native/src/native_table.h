#pragma once

#include <napi.h>

#include <cstddef>
#include <memory>

namespace vhost_user {

/// Zeroed memory that JavaScript fills or reads as an ArrayBuffer and native code by pointer. Owned by both:
/// it lives until this object and the ArrayBuffer are gone, and JavaScript cannot transfer it away.
class NativeTable {
 public:
  NativeTable() = default;
  explicit NativeTable(std::size_t bytes) : size_(bytes), memory_(std::make_shared<Memory>(bytes)) {}

  template <typename T>
  T* As() const {
    return reinterpret_cast<T*>(memory_->bytes);
  }
  std::size_t size() const { return size_; }

  Napi::ArrayBuffer ToArrayBuffer(Napi::Env env) const {
    auto* hold = new std::shared_ptr<Memory>(memory_);
    return Napi::ArrayBuffer::New(
        env, memory_->bytes, size_, [](Napi::Env, void*, std::shared_ptr<Memory>* held) { delete held; },
        hold);
  }

 private:
  struct Memory {
    explicit Memory(std::size_t size) : bytes(new std::max_align_t[size / sizeof(std::max_align_t) + 1]()) {}
    ~Memory() { delete[] bytes; }
    std::max_align_t* bytes;
  };

  std::size_t size_ = 0;
  std::shared_ptr<Memory> memory_;
};

}  // namespace vhost_user
