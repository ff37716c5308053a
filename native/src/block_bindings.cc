#include <algorithm>
#include <cerrno>
#include <memory>
#include <string>

#include "block_file.h"
#include "environment.h"
#include "fd.h"
#include "image_lock.h"
#include "javascript.h"

namespace vhost_user {
namespace {

/// blockOpen(path, readOnly, direct, threads, callback) -> [file, block size, can discard]
Napi::Value Open(const Napi::CallbackInfo& info) {
  Napi::Env env = info.Env();
  auto& environment = Environment::Of(env);
  bool read_only = info[1].ToBoolean();
  bool direct = info[2].ToBoolean();
  bool threads = info[3].ToBoolean();
  Image image = Image::Open(info[0].As<Napi::String>(), read_only, direct);
  auto file =
      std::make_unique<BlockFile>(environment, std::move(image), threads, info[4].As<Napi::Function>());
  auto result = Napi::Array::New(env, 3);
  result.Set(1u, Napi::Number::New(env, file->image().block_size));
  result.Set(2u, Napi::Boolean::New(env, file->image().can_discard));
  result.Set(0u, Napi::Number::New(env, environment.files.Add(std::move(file))));
  return result;
}

BlockFile& FileArgument(const Napi::CallbackInfo& info) {
  auto* file = Environment::Of(info.Env()).files.Find(IntArgument(info, 0));
  if (file == nullptr) Fail("io_uring_enter", EBADF);
  return **file;
}

/// blockSize(file) -> bytes of the image, as it is now
Napi::Value Size(const Napi::CallbackInfo& info) {
  return Napi::BigInt::New(info.Env(), FileSize(FileArgument(info).image().file.get()));
}

/// blockTables(file, segments) -> [rows, places, segments, completions] as ArrayBuffers; room for that many
/// segments
Napi::Value Tables(const Napi::CallbackInfo& info) {
  BlockFile& file = FileArgument(info);
  file.GrowSegments(std::max(IntArgument(info, 1), 0));
  Napi::Env env = info.Env();
  auto result = Napi::Array::New(env, 4);
  result.Set(0u, file.operations().ToArrayBuffer(env));
  result.Set(1u, file.places().ToArrayBuffer(env));
  result.Set(2u, file.segments().ToArrayBuffer(env));
  result.Set(3u, file.completions().ToArrayBuffer(env));
  return result;
}

/// blockCompletions(file) -> the completion table as an ArrayBuffer, after it has grown
Napi::Value Completions(const Napi::CallbackInfo& info) {
  return FileArgument(info).completions().ToArrayBuffer(info.Env());
}

/// blockHeldElsewhere(file) -> 1 when another process, or what one has left to the kernel, may write to the
/// image, 0 when nobody does, a negative errno when the file system cannot tell
Napi::Value HeldElsewhere(const Napi::CallbackInfo& info) {
  const Image& image = FileArgument(info).image();
  int32_t held = image.lock_error != 0 ? -image.lock_error : ImageLockedElsewhere(image);
  return Napi::Number::New(info.Env(), held);
}

/// blockClose(file). Nothing may be pending.
Napi::Value Close(const Napi::CallbackInfo& info) {
  FileArgument(info);
  Environment::Of(info.Env()).files.Remove(IntArgument(info, 0));
  return info.Env().Undefined();
}

/// blockSubmit(file, count, publish) -> operations that ended (all since the last published ones), or a
/// negative errno
napi_value Submit(napi_env env, napi_callback_info info) {
  int32_t arguments[3];
  ReadInts(env, info, arguments);
  auto* file = Environment::Of(env).files.Find(arguments[0]);
  if (file == nullptr) return ToInt(env, -EBADF);
  (*file)->Submit(arguments[1]);
  return ToInt(env, arguments[2] != 0 ? (*file)->Publish() : 0);
}

}  // namespace

void ExportBlockFiles(Napi::Object exports) {
  Export<Open>(exports, "blockOpen");
  Export<Size>(exports, "blockSize");
  Export<Tables>(exports, "blockTables");
  Export<Completions>(exports, "blockCompletions");
  Export<HeldElsewhere>(exports, "blockHeldElsewhere");
  Export<Close>(exports, "blockClose");
  ExportRaw(exports, "blockSubmit", Submit);
}

}  // namespace vhost_user
