#include "image/read_image.h"

#include <fmt/format.h>
#include <sys/stat.h>

#include <algorithm>

#include "base/error.h"
#include "image/front.h"

namespace rfork::image {

namespace {

constexpr size_t kChunk = 1u << 20;

/// Until `total` bytes are there. Grows with what comes, not with what the header promises.
void read_until(int fd, Bytes& bytes, uint64_t total) {
  while (bytes.size() < total) {
    const size_t start = bytes.size();
    bytes.resize(start + std::min<uint64_t>(kChunk, total - start));
    const size_t n = read_full(fd, std::span(bytes).subspan(start), "the image");
    bytes.resize(start + n);
    if (n == 0) return;
  }
}

/// Does `work`; what it is refused with gets the image's name in front.
template <typename Work>
auto named(const std::string& name, Work&& work) {
  try {
    return work();
  } catch (const Refusal& refusal) {
    if (name.empty()) throw;
    std::vector<Reason> reasons = refusal.reasons();
    for (Reason& reason : reasons) reason.what = name + ": " + reason.what;
    throw Refusal(refusal.failure(), std::move(reasons));
  }
}

}  // namespace

ImageReader::ImageReader(int fd, std::string name, Copy copy)
    : fd_(fd),
      name_(std::move(name)),
      copy_(std::move(copy)),
      metadata_(named(name_, [&] { return read_metadata(); })),
      left_(metadata_.data_size),
      verifier_(std::make_unique<Verifier>(metadata_)) {}

Metadata ImageReader::read_metadata() {
  struct stat facts {};
  if (::fstat(fd_, &facts) < 0) throw_errno("fstat", "the image");
  if (S_ISDIR(facts.st_mode)) throw Refusal(Failure::bad_image, "this is a directory, no image");
  Bytes bytes;
  read_until(fd_, bytes, kPrefixSize);
  if (is_front(bytes)) {
    front_size_ = image::front_size(bytes);
    read_until(fd_, bytes, front_size_);
    check_front(bytes);
    bytes.clear();
    read_until(fd_, bytes, kPrefixSize);
  }
  const uint64_t size = metadata_size(bytes);
  bytes.reserve(size);  // untouched pages cost nothing
  read_until(fd_, bytes, size);
  Metadata metadata = decode_metadata(bytes);
  if (copy_) copy_(bytes);
  return metadata;
}

size_t ImageReader::read(std::span<std::byte> buffer) {
  const auto wanted = buffer.first(std::min<uint64_t>(buffer.size(), left_));
  const size_t n = read_full(fd_, wanted, "the image");
  if (n < wanted.size()) {
    const uint64_t at = metadata_.data_offset + metadata_.data_size - left_ + n;
    named(name_, [&] { refuse_cut(at, metadata_.total_size); });
  }
  verifier_->absorb(wanted);
  if (copy_) copy_(wanted);
  left_ -= n;
  return n;
}

void ImageReader::finish() {
  if (left_ != 0) {
    Bytes buffer(256u << 10);
    while (read(buffer) != 0) continue;
  }
  Bytes trailer;
  read_until(fd_, trailer, metadata_.trailer_size);
  std::byte next{};
  const bool more = read_full(fd_, {&next, 1}, "the image") != 0;
  named(name_, [&] {
    verifier_->check(trailer);
    if (!more) return;
    throw Refusal(
        Failure::bad_image,
        fmt::format("the image ends at byte {}, but something follows", metadata_.total_size),
        "make or copy it again");
  });
  if (copy_) copy_(trailer);
}

}  // namespace rfork::image
