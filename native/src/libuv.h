#pragma once

// The few libuv functions used, declared by hand: `node` exports them, but its headers are not part of an
// installation that was not made for building addons. All of them belong to libuv's stable 1.x ABI. The size
// of a handle is asked for at run time and its data pointer is set through a function, so no structure of
// libuv is spelled out here.

#include <cstddef>

extern "C" {
struct uv_loop_s;
struct uv_handle_s;

using uv_close_cb = void (*)(uv_handle_s* handle);
using uv_poll_cb = void (*)(uv_handle_s* handle, int status, int events);

std::size_t uv_handle_size(int type);
const char* uv_handle_type_name(int type);
void* uv_handle_get_data(const uv_handle_s* handle);
void uv_handle_set_data(uv_handle_s* handle, void* data);
void uv_close(uv_handle_s* handle, uv_close_cb callback);
void uv_ref(uv_handle_s* handle);
void uv_unref(uv_handle_s* handle);

// The handle of these is a uv_poll_t, which begins with a uv_handle_t.
int uv_poll_init(uv_loop_s* loop, uv_handle_s* handle, int fd);
int uv_poll_start(uv_handle_s* handle, int events, uv_poll_cb callback);
int uv_poll_stop(uv_handle_s* handle);
}

namespace vhost_user {

constexpr int kUvPollType = 8;
constexpr int kUvReadable = 1;
constexpr int kUvWritable = 2;
constexpr int kUvDisconnect = 4;

}  // namespace vhost_user
