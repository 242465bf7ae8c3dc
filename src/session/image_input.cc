#include "session/image_input.h"

#include <fmt/format.h>

#include "base/error.h"
#include "image/format.h"

namespace rfork::session {

size_t ImageInput::fill_until_end(std::span<std::byte> buffer) {
  size_t got = 0;
  while (got < buffer.size()) {
    const size_t n = source_->read(buffer.subspan(got));
    if (n == 0) break;
    got += n;
    position_ += n;
  }
  return got;
}

void ImageInput::fill(std::span<std::byte> buffer, uint64_t total) {
  if (fill_until_end(buffer) < buffer.size()) image::refuse_cut(position_, total);
}

void ImageInput::finish() {
  std::byte more{};
  if (fill_until_end({&more, 1}) != 0) {
    throw Refusal(Failure::bad_image,
                  fmt::format("the image goes on after its end at byte {}", position_ - 1));
  }
}

}  // namespace rfork::session
