// The XSAVE area in the layout that debuggers expect.
//
// Where a component lies in the standard format is the CPU's choice (CPUID leaf 0xD): AMD's have no
// hole where Intel's had MPX. gdb before 14 knows Intel's offsets only, so images carry the area in
// that layout, and say so in Host::xstate; the loader translates to its own host's anyway.
#pragma once

#include "base/io.h"
#include "image/model.h"

namespace rfork::tracer {

/// `host` with Intel's offsets for the components that it enables.
image::Host with_common_xstate_layout(const image::Host& host);

/// The thread's whole area (as long as all components of `to` need), moved from the layout of
/// `from` to that of `to`.
Bytes move_xstate(const image::Thread& thread, const image::Host& from, const image::Host& to);

}  // namespace rfork::tracer
