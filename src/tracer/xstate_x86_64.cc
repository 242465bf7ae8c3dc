#include "tracer/xstate_x86_64.h"

#include <algorithm>

#include "image/signal_frame_x86_64.h"

namespace rfork::tracer {

image::Host with_common_xstate_layout(const image::Host& host) {
  // Intel SDM volume 1, 13.4.3, and what CPUID gives on every CPU of theirs so far: index, offset,
  // size.
  static constexpr image::XstateComponent kLayout[] = {
      {2, 576, 256},   {3, 960, 64}, {4, 1024, 64},  {5, 1088, 64},    {6, 1152, 512},
      {7, 1664, 1024}, {9, 2688, 8}, {17, 2752, 64}, {18, 2816, 8192},
  };
  image::Host result = host;
  result.xstate.clear();
  for (const image::XstateComponent& component : kLayout) {
    if ((host.xcr0 >> component.index & 1) != 0) result.xstate.push_back(component);
  }
  return result;
}

Bytes move_xstate(const image::Thread& thread, const image::Host& from, const image::Host& to) {
  Bytes area = image::translate_xstate(thread, from, to).bytes;
  size_t whole = area.size();
  for (const image::XstateComponent& component : to.xstate) {
    whole = std::max<size_t>(whole, component.offset + component.size);
  }
  area.resize(whole);
  return area;
}

}  // namespace rfork::tracer
