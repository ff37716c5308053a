#pragma once

#include <vector>

namespace vhost_user {

/// Notes these signals, besides what is done with them already: the process is about to end, and a thread
/// that waits for a page of somebody else's must not keep it. Each has to have a handler; one that has none
/// ends the process by itself. Throws SystemError.
void NoteEndingSignals(const std::vector<int>& signals);

/// Readable from the first of them on; -1 while none is noted.
int EndingSignalFd();

/// Whether one of them was sent and waits for a thread that is stuck inside of a system call, whose handler
/// runs only later. Only for threads that block them.
bool EndingSignalPending();

}  // namespace vhost_user
