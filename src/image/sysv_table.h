// /proc/sysvipc/shm: the SysV segments of an IPC namespace.
#pragma once

#include <string_view>
#include <vector>

#include "image/model.h"

namespace rfork::image {

/// Of the IPC namespace of who opens it.
inline constexpr const char* kSysvTable = "/proc/sysvipc/shm";

/// A line of it: what the text says of a segment, and how often it is attached.
struct SysvTableLine {
  SysvSegment segment;  ///< without its namespace
  uint64_t attached = 0;
};

std::vector<SysvTableLine> parse_sysv_lines(std::string_view text);
std::vector<SysvSegment> parse_sysv_table(std::string_view text);

}  // namespace rfork::image
