// Looking at memory that may not be looked at.
#pragma once

#include <csignal>

namespace target {

/// From here on SIGSEGV is may_read()'s and may_write()'s. The handler is left by a jump, and so
/// with the protection key rights of a signal handler.
void catch_faults();
/// Whether a byte can be read. `code`, if given: the si_code of its fault.
bool may_read(const volatile char* at, int* code = nullptr);
/// Whether a byte can be written: its own value is.
bool may_write(volatile char* at, int* code = nullptr);

}  // namespace target
