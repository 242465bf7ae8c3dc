// Whatever the processor: the same digests.
#include <catch2/catch.hpp>
#include <cstring>

#include "image/digest.h"
#include "image/xxh3.h"
#include "image_samples.h"

using namespace rfork;
using namespace rfork::image;

TEST_CASE("every width of registers gives the same digests") {
  const auto all = usable_xxh3();
  REQUIRE(!all.empty());
  for (const size_t size : {0, 1, 16, 17, 128, 129, 240, 241, 1024, 4096, 100'003}) {
    const Bytes bytes = samples::noise(size, 7);
    const Digest expected = digest_of(bytes);
    for (const Xxh3* xxh3 : all) {
      unsigned char digest[16];
      xxh3->long_of(bytes.data(), bytes.size(), digest);
      CHECK(std::memcmp(digest, expected.data(), sizeof digest) == 0);
      CHECK(xxh3->short_of(bytes.data(), bytes.size()) == short_digest_of(bytes));

      Xxh3State state;
      xxh3->reset(state);
      for (size_t at = 0; at < size; at += 1000) {
        xxh3->absorb(state, bytes.data() + at, std::min<size_t>(1000, size - at));
      }
      xxh3->long_digest(state, digest);
      CHECK(std::memcmp(digest, expected.data(), sizeof digest) == 0);
      CHECK(xxh3->short_digest(state) == short_digest_of(bytes));
    }
  }
}
