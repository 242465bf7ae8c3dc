#include "tracer/xstate_x86_64.h"

#include <algorithm>
#include <cstring>

namespace rfork::tracer {

namespace {

constexpr size_t kExtendedStart = 576;  // FXSAVE area and XSAVE header

}  // namespace

std::vector<image::XstateComponent> common_xstate_layout(uint64_t xcr0) {
  // Intel SDM volume 1, 13.4.3, and what CPUID gives on every CPU of theirs so far: index, offset,
  // size.
  static constexpr image::XstateComponent kLayout[] = {
      {2, 576, 256},   {3, 960, 64}, {4, 1024, 64},  {5, 1088, 64},    {6, 1152, 512},
      {7, 1664, 1024}, {9, 2688, 8}, {17, 2752, 64}, {18, 2816, 8192},
  };
  std::vector<image::XstateComponent> layout;
  for (const image::XstateComponent& component : kLayout) {
    if ((xcr0 >> component.index & 1) != 0) layout.push_back(component);
  }
  return layout;
}

Bytes move_xstate(const Bytes& area, const std::vector<image::XstateComponent>& from,
                  const std::vector<image::XstateComponent>& to) {
  size_t size = kExtendedStart;
  for (const image::XstateComponent& component : to) {
    size = std::max<size_t>(size, component.offset + component.size);
  }
  Bytes moved(size);
  std::memcpy(moved.data(), area.data(), std::min(kExtendedStart, area.size()));
  for (const image::XstateComponent& target : to) {
    const auto source = std::find_if(
        from.begin(), from.end(),
        [&](const image::XstateComponent& candidate) { return candidate.index == target.index; });
    if (source == from.end() || source->offset + source->size > area.size()) continue;
    std::memcpy(moved.data() + target.offset, area.data() + source->offset,
                std::min(source->size, target.size));
  }
  return moved;
}

}  // namespace rfork::tracer
