#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "javascript.h"
#include "socket.h"
#include "unique_fd.h"

namespace vhost_user {
namespace {

/// The most that Linux passes in one message (SCM_MAX_FD, which its headers keep to themselves).
constexpr std::size_t kMaxFds = 253;

/// Takes every fd out of the control data, so that none can be lost on the way.
std::vector<UniqueFd> TakeFds(msghdr& message) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&message); part != nullptr; part = CMSG_NXTHDR(&message, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; i++) {
      int fd;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof fd, sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

/// socketReceive(fd, bytes, fds) -> bytes received, or a negative errno. Appends the received fds to the
/// array.
Napi::Value Receive(const Napi::CallbackInfo& info) {
  int fd = IntArgument(info, 0);
  auto into = info[1].As<Napi::Uint8Array>();
  auto out = info[2].As<Napi::Array>();
  iovec vector{into.Data(), into.ByteLength()};
  // Room for credentials too: an inherited socket may have SO_PASSCRED set, and they would push the fds out.
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int)) + CMSG_SPACE(sizeof(ucred))];
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  ssize_t count;
  do {
    count = recvmsg(fd, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
  } while (count < 0 && errno == EINTR);
  if (count < 0) return Napi::Number::New(info.Env(), -errno);
  std::vector<UniqueFd> fds = TakeFds(message);
  // The buffer holds all that can come, so this is the process's limit of open files: some fds are gone for
  // good.
  if (message.msg_flags & MSG_CTRUNC) Fail("recvmsg", EMFILE);
  for (UniqueFd& received : fds) {
    out.Set(out.Length(), Napi::Number::New(info.Env(), received.get()));
    received.Release();
  }
  return Napi::Number::New(info.Env(), static_cast<double>(count));
}

/// socketSend(fd, bytes, fds) -> bytes taken, or a negative errno
Napi::Value Send(const Napi::CallbackInfo& info) {
  int fd = IntArgument(info, 0);
  auto bytes = info[1].As<Napi::Uint8Array>();
  auto fds = info[2].As<Napi::Array>();
  std::size_t count = fds.Length();
  if (count > kMaxFds) Fail("sendmsg", E2BIG);
  iovec vector{bytes.Data(), bytes.ByteLength()};
  alignas(cmsghdr) char control[CMSG_SPACE(kMaxFds * sizeof(int))] = {};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  if (count > 0) {
    message.msg_control = control;
    message.msg_controllen = CMSG_SPACE(count * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&message);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(count * sizeof(int));
    for (uint32_t i = 0; i < count; i++) {
      int sent = Napi::Value(fds[i]).As<Napi::Number>();
      std::memcpy(CMSG_DATA(part) + i * sizeof sent, &sent, sizeof sent);
    }
  }
  ssize_t taken;
  do {
    taken = sendmsg(fd, &message, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (taken < 0 && errno == EINTR);
  return Napi::Number::New(info.Env(), taken < 0 ? -errno : static_cast<double>(taken));
}

}  // namespace

void ExportMessages(Napi::Object exports) {
  Export<Receive>(exports, "socketReceive");
  Export<Send>(exports, "socketSend");
}

}  // namespace vhost_user
