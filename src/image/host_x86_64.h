// What the processor is, from CPUID and XGETBV.
#pragma once

#include "image/model.h"

namespace rfork::image {

/// Fills architecture, cpu_features, cpu_hints, xcr0 and xstate.
void describe_cpu(Host& host);

/// `AVX-512 ZMM0-15 upper halves` for an XSAVE component.
const char* name_of_xstate_component(unsigned index);

}  // namespace rfork::image
