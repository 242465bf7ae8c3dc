// The stub's ELF file, as the build embedded it.
#pragma once

#include <cstddef>
#include <span>

#include "base/unique_fd.h"

namespace rfork::loader {

std::span<const std::byte> stub_image();

/// A descriptor that execveat(2) can run the stub from: a sealed-off memfd, or where those may not
/// be executed (vm.memfd_noexec) an unlinked file. Throws Error.
UniqueFd executable_stub();

}  // namespace rfork::loader
