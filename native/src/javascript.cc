#include "javascript.h"

#include <cstring>
#include <limits>

namespace vhost_user {

Napi::Error ToJavaScript(Napi::Env env, const SystemError& error) {
  auto result = Napi::Error::New(env, std::strerror(error.number));
  result.Set("syscall", Napi::String::New(env, error.syscall));
  result.Set("errno", Napi::Number::New(env, error.number));
  return result;
}

void ExportRaw(Napi::Object exports, const char* name, napi_callback function) {
  napi_value value;
  napi_status status = napi_create_function(exports.Env(), name, NAPI_AUTO_LENGTH, function, nullptr, &value);
  if (status != napi_ok) throw Napi::Error::New(exports.Env());
  exports.Set(name, Napi::Value(exports.Env(), value));
}

uint64_t BigArgument(const Napi::CallbackInfo& info, std::size_t index, const char* syscall) {
  bool lossless = false;
  uint64_t value = info[index].As<Napi::BigInt>().Uint64Value(&lossless);
  if (!lossless || value > static_cast<uint64_t>(std::numeric_limits<int64_t>::max()))
    Fail(syscall, EOVERFLOW);
  return value;
}

void CallFromLoop(napi_env env, const Napi::FunctionReference& function, int32_t argument) {
  Napi::HandleScope scope(env);
  napi_value receiver;
  napi_get_global(env, &receiver);
  napi_value value = ToInt(env, argument);
  // make_callback rather than call_function: it runs the microtasks and process.nextTick afterwards.
  napi_status status = napi_make_callback(env, nullptr, receiver, function.Value(), 1, &value, nullptr);
  bool pending = false;
  if (status == napi_ok || napi_is_exception_pending(env, &pending) != napi_ok || !pending) return;
  napi_value thrown;
  if (napi_get_and_clear_last_exception(env, &thrown) == napi_ok) napi_fatal_exception(env, thrown);
}

}  // namespace vhost_user
