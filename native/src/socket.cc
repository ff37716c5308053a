#include "socket.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>

#include "javascript.h"
#include "unique_fd.h"

namespace vhost_user {
namespace {

constexpr int kBacklog = 128;

UniqueFd NewSocket() {
  return UniqueFd(Check("socket", socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)));
}

sockaddr_un Address(const char* syscall, const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (path.empty() || path.find('\0') != std::string::npos) Fail(syscall, EINVAL);
  if (path.size() >= sizeof address.sun_path) Fail(syscall, ENAMETOOLONG);
  std::memcpy(address.sun_path, path.data(), path.size());
  return address;
}

/// Returns 0 or an errno. Interrupted calls are repeated; on Unix sockets nothing is half done then.
int TryConnect(int fd, const sockaddr_un& address) {
  for (;;) {
    if (connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return 0;
    if (errno == EISCONN) return 0;
    if (errno != EINTR) return errno;
  }
}

bool TryBind(int fd, const sockaddr_un& address) {
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0) return true;
  if (errno != EADDRINUSE) Fail("bind");
  return false;
}

/// Removes a socket file that nobody listens on. Anything else keeps its place: the error is EADDRINUSE then.
void RemoveStale(const sockaddr_un& address) {
  struct stat file;
  if (lstat(address.sun_path, &file) != 0) {
    if (errno == ENOENT) return;
    Fail("lstat");
  }
  if (!S_ISSOCK(file.st_mode)) Fail("bind", EADDRINUSE);
  UniqueFd probe = NewSocket();
  int error = TryConnect(probe.get(), address);
  if (error == ENOENT) return;
  if (error != ECONNREFUSED) Fail("bind", EADDRINUSE);
  if (unlink(address.sun_path) != 0 && errno != ENOENT) Fail("unlink");
}

/// socketListen(path) -> [fd, device, inode]; the last two say which socket file is ours.
Napi::Value Listen(const Napi::CallbackInfo& info) {
  sockaddr_un address = Address("bind", info[0].As<Napi::String>());
  UniqueFd fd = NewSocket();
  if (!TryBind(fd.get(), address)) {
    RemoveStale(address);
    if (!TryBind(fd.get(), address)) Fail("bind", EADDRINUSE);
  }
  struct stat file;
  Check("lstat", lstat(address.sun_path, &file));
  if (listen(fd.get(), kBacklog) != 0) {
    int error = errno;
    unlink(address.sun_path);
    Fail("listen", error);
  }
  auto result = Napi::Array::New(info.Env(), 3);
  result.Set(1u, Napi::BigInt::New(info.Env(), static_cast<uint64_t>(file.st_dev)));
  result.Set(2u, Napi::BigInt::New(info.Env(), static_cast<uint64_t>(file.st_ino)));
  result.Set(0u, Napi::Number::New(info.Env(), fd.Release()));
  return result;
}

/// socketUnlink(path, device, inode): removes the socket file if it is still that one.
Napi::Value Unlink(const Napi::CallbackInfo& info) {
  std::string path = info[0].As<Napi::String>();
  struct stat file;
  if (lstat(path.c_str(), &file) != 0) {
    if (errno == ENOENT) return info.Env().Undefined();
    Fail("lstat");
  }
  bool lossless;
  if (file.st_dev != info[1].As<Napi::BigInt>().Uint64Value(&lossless)) return info.Env().Undefined();
  if (file.st_ino != info[2].As<Napi::BigInt>().Uint64Value(&lossless)) return info.Env().Undefined();
  if (unlink(path.c_str()) != 0 && errno != ENOENT) Fail("unlink");
  return info.Env().Undefined();
}

/// socketOpen() -> fd
Napi::Value Open(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), NewSocket().Release());
}

/// socketConnect(fd, path) -> 0, or -EAGAIN (the backlog is full, try later), or -EINPROGRESS (wait until
/// writable)
Napi::Value Connect(const Napi::CallbackInfo& info) {
  int error = TryConnect(IntArgument(info, 0), Address("connect", info[1].As<Napi::String>()));
  if (error != 0 && error != EAGAIN && error != EINPROGRESS && error != EALREADY) Fail("connect", error);
  return Napi::Number::New(info.Env(), error == EALREADY ? -EINPROGRESS : -error);
}

int SocketOption(int fd, int option) {
  int value = 0;
  socklen_t size = sizeof value;
  Check("getsockopt", getsockopt(fd, SOL_SOCKET, option, &value, &size));
  return value;
}

/// socketError(fd) -> 0 or a positive errno
Napi::Value Error(const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), SocketOption(IntArgument(info, 0), SO_ERROR));
}

/// socketAdopt(fd) -> true for a listening socket. Throws unless it is a Unix stream socket.
Napi::Value Adopt(const Napi::CallbackInfo& info) {
  int fd = IntArgument(info, 0);
  if (SocketOption(fd, SO_DOMAIN) != AF_UNIX) Fail("getsockopt", EAFNOSUPPORT);
  if (SocketOption(fd, SO_TYPE) != SOCK_STREAM) Fail("getsockopt", EPROTOTYPE);
  bool listening = SocketOption(fd, SO_ACCEPTCONN) != 0;
  SetCloseOnExec(fd);
  return Napi::Boolean::New(info.Env(), listening);
}

/// socketAccept(fd) -> fd or a negative errno
Napi::Value Accept(const Napi::CallbackInfo& info) {
  int fd;
  do {
    fd = accept4(IntArgument(info, 0), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC);
  } while (fd < 0 && errno == EINTR);
  return Napi::Number::New(info.Env(), fd < 0 ? -errno : fd);
}

/// socketPair() -> [fd, fd]
Napi::Value Pair(const Napi::CallbackInfo& info) {
  int fds[2];
  Check("socketpair", socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fds));
  auto result = Napi::Array::New(info.Env(), 2);
  result.Set(0u, Napi::Number::New(info.Env(), fds[0]));
  result.Set(1u, Napi::Number::New(info.Env(), fds[1]));
  return result;
}

}  // namespace

void ExportSockets(Napi::Object exports) {
  Export<Listen>(exports, "socketListen");
  Export<Unlink>(exports, "socketUnlink");
  Export<Open>(exports, "socketOpen");
  Export<Connect>(exports, "socketConnect");
  Export<Error>(exports, "socketError");
  Export<Adopt>(exports, "socketAdopt");
  Export<Accept>(exports, "socketAccept");
  Export<Pair>(exports, "socketPair");
  ExportMessages(exports);
}

}  // namespace vhost_user
