// The image as one stream of bytes, wherever it comes from.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

namespace rfork::session {

/// Where the bytes of an image come from: image_sources.h.
class ImageSource {
 public:
  ImageSource() = default;
  virtual ~ImageSource() = default;
  ImageSource(const ImageSource&) = delete;
  ImageSource& operator=(const ImageSource&) = delete;

  /// The next bytes, at least one; 0 at the end of the image, and from then on.
  virtual size_t read(std::span<std::byte> buffer) = 0;
};

class ImageInput {
 public:
  explicit ImageInput(std::unique_ptr<ImageSource> source) : source_(std::move(source)) {}

  /// Fills all of `buffer`. Refuses (bad_image) when the client ended the image before; `total` is
  /// the image's whole size, as far as it is known, for that message.
  void fill(std::span<std::byte> buffer, uint64_t total);
  /// As fill(), but gives the number of bytes that came before the end.
  size_t fill_until_end(std::span<std::byte> buffer);
  /// Checks that this is the end.
  void finish();

 private:
  std::unique_ptr<ImageSource> source_;
  uint64_t position_ = 0;
};

}  // namespace rfork::session
