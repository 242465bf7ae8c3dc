// Made-up processes and their images, for the tests of src/image and for the fuzz target's start.
#pragma once

#include <cstdint>
#include <vector>

#include "image/format.h"
#include "image/model.h"

namespace rfork::image::samples {

/// One process, one thread, one page: as small as an image gets.
Snapshot small_snapshot();
std::vector<DataRun> small_runs();

/// Two processes that share a description and a memfd, with something in every field.
Snapshot rich_snapshot();
std::vector<DataRun> rich_runs();

/// `count` bytes that look random and are always the same.
Bytes noise(size_t count, uint32_t seed);

/// The whole image, with noise as page data.
Bytes image_of(const Snapshot& snapshot, const std::vector<DataRun>& runs);

/// Reads an image from memory with all checks. Throws what decoding and verifying throw.
Metadata read_back(std::span<const std::byte> image);

/// The line that reading `image` is refused with; fails the test when it isn't.
std::string refusal_of(std::span<const std::byte> image);

/// `image` as it is after its header and notes were altered by somebody who set the digests right
/// again.
void reseal(Bytes& image);

}  // namespace rfork::image::samples
