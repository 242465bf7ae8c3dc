// The image as it comes out of DATA frames: one stream of bytes, wherever the frames were cut.
#pragma once

#include <cstdint>
#include <span>

#include "net/link.h"

namespace rfork::session {

class ImageInput {
 public:
  /// Borrows `link`. `first_wait` is for the first byte, `wait` for every later one.
  ImageInput(net::Link& link, net::Wait first_wait, net::Wait wait)
      : link_(link), next_wait_(first_wait), wait_(wait) {}

  /// Fills all of `buffer`. Refuses (bad_image) when the client ended the image before; `total` is
  /// the image's whole size, as far as it is known, for that message.
  void fill(std::span<std::byte> buffer, uint64_t total);
  /// As fill(), but gives the number of bytes that came before END.
  size_t fill_until_end(std::span<std::byte> buffer);
  /// Takes END, and checks it.
  void finish();
  uint64_t position() const { return position_; }

 private:
  bool next_frame();

  net::Link& link_;
  net::Wait next_wait_;
  net::Wait wait_;
  uint64_t position_ = 0;
  bool ended_ = false;
};

}  // namespace rfork::session
