// Reads an image from a descriptor, front to back: a file, a pipe or a socket. A loader in front of
// it (front.h) is checked and skipped.
//
//   ImageReader reader(fd);                     // metadata, checked
//   while (size_t n = reader.read(buffer)) ...  // page data, digested on the way
//   reader.finish();                            // trailer, and that nothing follows
//
// What read() gave must not be acted upon for good before finish() returned.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>

#include "image/format.h"

namespace rfork::image {

class ImageReader {
 public:
  /// Is given every byte of the image, in order.
  using Copy = std::function<void(std::span<const std::byte>)>;

  /// Borrows `fd`. Reads and checks everything before the page data. Throws Refusal(bad_image),
  /// also for a directory, and Error when it can't be read. With a `name` every refusal starts with
  /// it.
  explicit ImageReader(int fd, std::string name = {}, Copy copy = {});

  const Metadata& metadata() const { return metadata_; }
  /// Bytes of the loader in front of the image, 0 when it has none.
  uint64_t front_size() const { return front_size_; }
  /// The next bytes of page data: as many as fit into `buffer`, fewer only at the end, 0 behind it.
  /// Throws Refusal when the image is cut here.
  size_t read(std::span<std::byte> buffer);
  /// Reads what is left, compares the digests, and makes sure that nothing follows.
  void finish();

 private:
  Metadata read_metadata();

  int fd_;
  std::string name_;
  Copy copy_;
  uint64_t front_size_ = 0;
  Metadata metadata_;
  uint64_t left_ = 0;
  std::unique_ptr<Verifier> verifier_;
};

}  // namespace rfork::image
