#pragma once

#include <napi.h>

#include <cerrno>
#include <cstdint>

namespace vhost_user {

/// A system call that failed. Becomes a JavaScript Error with `syscall` and `errno` (a positive number).
struct SystemError {
  const char* syscall;
  int number;
};

[[noreturn]] inline void Fail(const char* syscall, int number = errno) {
  throw SystemError{syscall, number};
}

/// Throws SystemError when `result` is negative.
inline int Check(const char* syscall, int result) {
  if (result < 0) Fail(syscall);
  return result;
}

Napi::Error ToJavaScript(Napi::Env env, const SystemError& error);

/// Adds a function to `exports` that may throw SystemError. For the control path.
template <Napi::Value (*Function)(const Napi::CallbackInfo&)>
void Export(Napi::Object exports, const char* name) {
  auto guarded = [](const Napi::CallbackInfo& info) -> Napi::Value {
    try {
      return Function(info);
    } catch (const SystemError& error) {
      throw ToJavaScript(info.Env(), error);
    }
  };
  exports.Set(name, Napi::Function::New(exports.Env(), guarded, name));
}

/// Adds a function without any wrapping. For the hot path: it costs a third of the other form.
void ExportRaw(Napi::Object exports, const char* name, napi_callback function);

/// Reads the first `count` arguments of a raw function as int32; missing and wrong ones are 0.
template <std::size_t Count>
inline void ReadInts(napi_env env, napi_callback_info info, int32_t (&values)[Count]) {
  napi_value arguments[Count];
  std::size_t count = Count;
  napi_get_cb_info(env, info, &count, arguments, nullptr, nullptr);
  for (std::size_t i = 0; i < Count; i++) {
    if (napi_get_value_int32(env, arguments[i], &values[i]) != napi_ok) values[i] = 0;
  }
}

inline napi_value ToInt(napi_env env, int32_t value) {
  napi_value result = nullptr;
  napi_create_int32(env, value, &result);
  return result;
}

inline int IntArgument(const Napi::CallbackInfo& info, std::size_t index) {
  return info[index].As<Napi::Number>().Int32Value();
}

/// A bigint that fits in 63 bits; anything else throws a SystemError of EOVERFLOW.
uint64_t BigArgument(const Napi::CallbackInfo& info, std::size_t index, const char* syscall);

/// Calls a function from the loop, outside of any JavaScript. What it throws becomes an 'uncaughtException'.
void CallFromLoop(napi_env env, const Napi::FunctionReference& function, int32_t argument);

}  // namespace vhost_user
