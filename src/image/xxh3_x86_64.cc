#include "image/xxh3.h"

namespace rfork::image {

extern const Xxh3 kXxh3Sse2, kXxh3Avx2, kXxh3Avx512;

std::vector<const Xxh3*> usable_xxh3() {
  std::vector<const Xxh3*> usable = {&kXxh3Sse2};
  if (__builtin_cpu_supports("avx2")) usable.push_back(&kXxh3Avx2);
  if (__builtin_cpu_supports("avx512f")) usable.push_back(&kXxh3Avx512);
  return usable;
}

}  // namespace rfork::image
