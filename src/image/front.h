// What stands in front of an image that runs by itself: the loader program (rfork-run), so that the
// file can be copied to a host that has nothing of rfork's and started there.
//
// The mark is in fields of the program's ELF header that the kernel doesn't look at. So a running
// loader finds it in its own memory, and who reads a pipe front to back finds it in the first
// bytes; a footer would do for neither, and a note or section would have to be found first. Nothing
// that the kernel loads is moved. docs/image-format.md has the bytes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/io.h"

namespace rfork::image {

/// A multiple of kPageSize, so that the image's pages stay aligned in the file.
inline constexpr uint64_t kMaxFront = 64u << 20;

/// Makes a front of `program`: what is loaded of it, without symbols and debug information, marked
/// and sealed. Throws Refusal(internal) when it is no 64-bit program of this machine.
Bytes make_front(std::span<const std::byte> program);

/// Whether the program that starts with `header` (64 bytes or more) has an image behind it.
bool is_front(std::span<const std::byte> header);

/// The size of the front that starts with `header`, of which is_front() is true: where the image
/// starts. Throws Refusal(bad_image) when it can't be that, or is of a later version.
uint64_t front_size(std::span<const std::byte> header);

/// Checks the seal of a whole front. Throws Refusal(bad_image) when it is cut or altered.
void check_front(std::span<const std::byte> front);

/// Whether the program needs an interpreter, and with it shared libraries of the host.
bool needs_shared_libraries(std::span<const std::byte> program);

}  // namespace rfork::image
