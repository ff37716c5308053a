#pragma once

#include <napi.h>

namespace vhost_user {

/// Connections: listen, connect, accept, adopt.
void ExportSockets(Napi::Object exports);
/// Bytes and fds on a connected socket.
void ExportMessages(Napi::Object exports);

/// Throws SystemError.
void SetCloseOnExec(int fd);

}  // namespace vhost_user
