#include <napi.h>

#include <cstring>

#include "environment.h"
#include "fd.h"
#include "libuv.h"
#include "socket.h"
#include "tap.h"
#include "userfault.h"

namespace vhost_user {
namespace {

Napi::Object Initialize(Napi::Env env, Napi::Object exports) {
  const char* type = uv_handle_type_name(kUvPollType);
  if (type == nullptr || std::strcmp(type, "poll") != 0) {
    throw Napi::Error::New(env, "this Node has a libuv whose handle types are numbered differently");
  }
  Environment::Create(env);
  ExportFds(exports);
  ExportSockets(exports);
  ExportWatches(exports);
  ExportMemory(exports);
  ExportCopies(exports);
  ExportBlockFiles(exports);
  ExportTaps(exports);
  ExportUserfaults(exports);
  return exports;
}

}  // namespace
}  // namespace vhost_user

static Napi::Object Initialize(Napi::Env env, Napi::Object exports) {
  return vhost_user::Initialize(env, exports);
}

NODE_API_MODULE(vhost_user, Initialize)
