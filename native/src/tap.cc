#include "tap.h"

#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <sys/ioctl.h>
#include <sys/uio.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstring>
#include <string>

#include "environment.h"
#include "javascript.h"
#include "memory_map.h"
#include "unique_fd.h"

namespace vhost_user {

int TapTables::WriteOne(const MemoryMap& memory, int fd, const Row& row) const {
  iovec vectors[IOV_MAX];
  if (row.first < 0 || row.count < 0 || row.count > kSegments - row.first) return -EINVAL;
  if (row.count + 1 > IOV_MAX) return -EMSGSIZE;
  vectors[0] = {const_cast<int32_t*>(row.header), kHeader};
  const Segment* segments = segments_.As<Segment>() + row.first;
  for (int32_t i = 0; i < row.count; i++) {
    const Segment& segment = segments[i];
    uint8_t* data = memory.Find(segment.window, segment.offset, segment.length);
    if (data == nullptr) return -EFAULT;
    vectors[i + 1] = {data, static_cast<size_t>(segment.length)};
  }
  ssize_t written;
  do {
    written = writev(fd, vectors, row.count + 1);
  } while (written < 0 && errno == EINTR);
  return written < 0 ? -errno : 0;
}

int32_t TapTables::Write(const MemoryMap& memory, int fd, int32_t count) const {
  const Row* rows = rows_.As<Row>();
  auto* results = lengths_.As<int32_t>();
  for (int32_t i = 0; i < count; i++) {
    results[i] = WriteOne(memory, fd, rows[i]);
    if (results[i] == -EAGAIN) return i;
  }
  return count;
}

int32_t TapTables::Read(const MemoryMap& memory, int fd, int32_t window, int32_t offset, int32_t stride,
                        int32_t count) const {
  auto* lengths = lengths_.As<int32_t>();
  for (int32_t i = 0; i < count; i++) {
    uint8_t* slot = memory.Find(window, offset + i * stride, stride);
    if (slot == nullptr) return i > 0 ? i : -EFAULT;
    ssize_t length;
    do {
      length = read(fd, slot, static_cast<size_t>(stride));
    } while (length < 0 && errno == EINTR);
    if (length < 0) return i > 0 ? i : -errno;
    lengths[i] = static_cast<int32_t>(length);
  }
  return count;
}

namespace {

/// tapOpen(name, several queues) -> [fd, name of the device]
Napi::Value Open(const Napi::CallbackInfo& info) {
  std::string name = info[0].As<Napi::String>();
  if (name.size() >= IFNAMSIZ) Fail("ioctl(TUNSETIFF)", ENAMETOOLONG);
  UniqueFd fd(Check("open", open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC)));
  ifreq request{};
  std::memcpy(request.ifr_name, name.c_str(), name.size());
  request.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR;
  if (info[1].ToBoolean()) request.ifr_flags |= IFF_MULTI_QUEUE;
  Check("ioctl(TUNSETIFF)", ioctl(fd.get(), TUNSETIFF, &request));
  int size = TapTables::kHeader;
  Check("ioctl(TUNSETVNETHDRSZ)", ioctl(fd.get(), TUNSETVNETHDRSZ, &size));
  int little = 1;
  Check("ioctl(TUNSETVNETLE)", ioctl(fd.get(), TUNSETVNETLE, &little));
  // The device may have been left with offloads by whoever had it before.
  Check("ioctl(TUNSETOFFLOAD)", ioctl(fd.get(), TUNSETOFFLOAD, 0UL));
  auto result = Napi::Array::New(info.Env(), 2);
  result.Set(1u, Napi::String::New(info.Env(), request.ifr_name));
  result.Set(0u, Napi::Number::New(info.Env(), fd.Release()));
  return result;
}

/// tapSetOffloads(fd, checksum, tcp over ipv4, tcp over ipv6, ecn)
Napi::Value SetOffloads(const Napi::CallbackInfo& info) {
  const unsigned long bits[] = {TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6, TUN_F_TSO_ECN};
  unsigned long offloads = 0;
  for (std::size_t i = 0; i < 4; i++) {
    if (info[i + 1].ToBoolean()) offloads |= bits[i];
  }
  Check("ioctl(TUNSETOFFLOAD)", ioctl(IntArgument(info, 0), TUNSETOFFLOAD, offloads));
  return info.Env().Undefined();
}

/// tapTables() -> [rows, segments, lengths]
Napi::Value Tables(const Napi::CallbackInfo& info) {
  const auto& tables = Environment::Of(info.Env()).taps;
  auto result = Napi::Array::New(info.Env(), 3);
  result.Set(0u, tables.rows().ToArrayBuffer(info.Env()));
  result.Set(1u, tables.segments().ToArrayBuffer(info.Env()));
  result.Set(2u, tables.lengths().ToArrayBuffer(info.Env()));
  return result;
}

/// tapWrite(fd, count) -> packets done with, or a negative errno
napi_value Write(napi_env env, napi_callback_info info) {
  int32_t arguments[2];
  ReadInts(env, info, arguments);
  auto& environment = Environment::Of(env);
  if (arguments[1] < 0 || arguments[1] > TapTables::kRows) return ToInt(env, -EINVAL);
  return ToInt(env, environment.taps.Write(environment.memory, arguments[0], arguments[1]));
}

/// tapRead(fd, window, offset, stride, count) -> packets, or a negative errno
napi_value Read(napi_env env, napi_callback_info info) {
  int32_t arguments[5];
  ReadInts(env, info, arguments);
  auto [fd, window, offset, stride, count] = arguments;
  auto& environment = Environment::Of(env);
  bool fits = count >= 0 && count <= TapTables::kRows && offset >= 0 && stride > 0 &&
              static_cast<int64_t>(count) * stride + offset <= INT32_MAX;
  if (!fits) return ToInt(env, -EINVAL);
  return ToInt(env, environment.taps.Read(environment.memory, fd, window, offset, stride, count));
}

}  // namespace

void ExportTaps(Napi::Object exports) {
  Export<Open>(exports, "tapOpen");
  Export<SetOffloads>(exports, "tapSetOffloads");
  Export<Tables>(exports, "tapTables");
  ExportRaw(exports, "tapWrite", Write);
  ExportRaw(exports, "tapRead", Read);
}

}  // namespace vhost_user
