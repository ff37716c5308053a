#include <sys/mman.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <cerrno>
#include <string>

#include "environment.h"
#include "javascript.h"
#include "memory_map.h"
#include "sigbus_guard.h"
#include "unique_fd.h"

namespace vhost_user {
namespace {

/// memoryCreate(name, size, hugePages) -> fd
Napi::Value Create(const Napi::CallbackInfo& info) {
  std::string name = info[0].As<Napi::String>();
  uint64_t size = BigArgument(info, 1, "memfd_create");
  bool huge = info[2].ToBoolean();
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (huge ? MFD_HUGETLB : 0u);
  UniqueFd fd(Check("memfd_create", memfd_create(name.c_str(), flags)));
  if (huge) {
    struct statfs system;
    Check("fstatfs", fstatfs(fd.get(), &system));
    auto page = static_cast<uint64_t>(system.f_bsize);
    size = (size + page - 1) / page * page;
  }
  Check("ftruncate", ftruncate(fd.get(), static_cast<off_t>(size)));
  return Napi::Number::New(info.Env(), fd.Release());
}

/// memoryMap(fd, offset, length) -> [first window, number of windows, index of the damage flag, address]
Napi::Value Map(const Napi::CallbackInfo& info) {
  uint64_t offset = BigArgument(info, 1, "mmap");
  uint64_t length = BigArgument(info, 2, "mmap");
  Napi::Env env = info.Env();
  MemoryMap::Region region = Environment::Of(env).memory.Map(IntArgument(info, 0), offset, length);
  auto result = Napi::Array::New(env, 4);
  result.Set(0u, Napi::Number::New(env, region.first_window));
  result.Set(1u, Napi::Number::New(env, region.window_count));
  result.Set(2u, Napi::Number::New(env, region.mapping->guard()));
  auto address = reinterpret_cast<uintptr_t>(region.mapping->data());
  result.Set(3u, Napi::BigInt::New(env, static_cast<uint64_t>(address)));
  return result;
}

/// memoryShow(window) -> ArrayBuffer, or null when the window is not mapped
Napi::Value Show(const Napi::CallbackInfo& info) {
  return Environment::Of(info.Env()).memory.Show(info.Env(), IntArgument(info, 0));
}

/// memoryUnmap(first window)
Napi::Value Unmap(const Napi::CallbackInfo& info) {
  if (!Environment::Of(info.Env()).memory.Unmap(info.Env(), IntArgument(info, 0))) Fail("munmap", EINVAL);
  return info.Env().Undefined();
}

/// damageFlags() -> ArrayBuffer of int32 over the flags of the SIGBUS guard
Napi::Value Flags(const Napi::CallbackInfo& info) {
  return Napi::ArrayBuffer::New(info.Env(), DamageFlags(), kMaxGuards * sizeof(int32_t));
}

}  // namespace

void ExportMemory(Napi::Object exports) {
  Export<Create>(exports, "memoryCreate");
  Export<Map>(exports, "memoryMap");
  Export<Show>(exports, "memoryShow");
  Export<Unmap>(exports, "memoryUnmap");
  Export<Flags>(exports, "damageFlags");
}

}  // namespace vhost_user
