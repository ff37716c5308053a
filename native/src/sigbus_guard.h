#pragma once

#include <cstddef>
#include <cstdint>

namespace vhost_user {

// A front-end that truncates its memory file would kill this process: the next access below a mapping raises
// SIGBUS. For the ranges given here the handler lays anonymous memory over what is gone, sets the range's
// flag and lets the access go on; the session notices the flag and ends. Everything else goes to the handler
// that was there before.

/// The most ranges at a time; the kernel allows no more mappings by default.
constexpr uint32_t kMaxGuards = 65536;

/// Guards page-aligned memory. Returns its number, -1 when all numbers are taken. From any thread.
int GuardRange(void* base, std::size_t length, std::size_t page_size);
/// To be called before the memory is unmapped.
void UnguardRange(uint32_t guard);
/// The memory is about to be taken away as if its file had been truncated: it counts as damaged at once.
void WithdrawRange(uint32_t guard);

/// One word a guard: 1 once its range lost memory. Static, so that a late fault can never write into freed
/// memory.
int32_t* DamageFlags();

}  // namespace vhost_user
