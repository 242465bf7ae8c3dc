// The XSAVE area in the layout that debuggers expect.
//
// Where a component lies in the standard format is the CPU's choice (CPUID leaf 0xD): AMD's have no
// hole where Intel's had MPX. gdb before 14 knows Intel's offsets only, so images carry the area in
// that layout, and say so in Host::xstate; the loader translates to its own host's anyway.
#pragma once

#include <vector>

#include "base/io.h"
#include "image/model.h"

namespace rfork::tracer {

/// Intel's offsets of the components that `xcr0` enables.
std::vector<image::XstateComponent> common_xstate_layout(uint64_t xcr0);

/// `area` moved from layout `from` to layout `to`, component by component.
Bytes move_xstate(const Bytes& area, const std::vector<image::XstateComponent>& from,
                  const std::vector<image::XstateComponent>& to);

}  // namespace rfork::tracer
