// Sixteen threads in a ring, under mutexes and condition variables, that pass eight values round, each with
// AVX state of its own live while it computes. Who takes what in which order doesn't depend on timing, so
// FOLDER/result is the same after every run. ROUNDS is the argument; FOLDER/progress shows the round.
#include <fcntl.h>
#include <immintrin.h>
#include <pthread.h>
#include <unistd.h>

#include "target.h"

namespace {

constexpr int kThreads = 16;
struct Slot {
  pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
  pthread_cond_t condition = PTHREAD_COND_INITIALIZER;
  bool full = false;
  uint64_t value = 0;
};
Slot slots[kThreads];  // slot i is what thread i takes from
long rounds;
int progress_fd;
alignas(32) float final_state[kThreads][8];

void put(Slot& slot, uint64_t value) {
  EXPECT_EQ(pthread_mutex_lock(&slot.mutex), 0);
  while (slot.full) EXPECT_EQ(pthread_cond_wait(&slot.condition, &slot.mutex), 0);
  slot.full = true;
  slot.value = value;
  EXPECT_EQ(pthread_cond_broadcast(&slot.condition), 0);
  EXPECT_EQ(pthread_mutex_unlock(&slot.mutex), 0);
}

uint64_t take(Slot& slot) {
  EXPECT_EQ(pthread_mutex_lock(&slot.mutex), 0);
  while (!slot.full) EXPECT_EQ(pthread_cond_wait(&slot.condition, &slot.mutex), 0);
  slot.full = false;
  const uint64_t value = slot.value;
  EXPECT_EQ(pthread_cond_broadcast(&slot.condition), 0);
  EXPECT_EQ(pthread_mutex_unlock(&slot.mutex), 0);
  return value;
}

__attribute__((target("avx"))) void* run(void* argument) {
  const int index = int(reinterpret_cast<intptr_t>(argument));
  __m256 state = _mm256_set1_ps(float(index + 1));
  const __m256 factor = _mm256_setr_ps(1.0f, 1.1f, 1.2f, 1.3f, 1.4f, 1.5f, 1.6f, 1.7f);
  for (long round = 0; round < rounds; ++round) {
    uint64_t value = take(slots[index]);
    // Enough work that the process is mostly found here, with the registers full.
    for (int i = 0; i < 2000; ++i) {
      state = _mm256_add_ps(_mm256_mul_ps(state, factor), _mm256_set1_ps(float(value % 97)));
      state = _mm256_sub_ps(state, _mm256_mul_ps(_mm256_floor_ps(_mm256_div_ps(
          state, _mm256_set1_ps(1024.0f))), _mm256_set1_ps(1024.0f)));
      value = value * 6364136223846793005 + 1442695040888963407 + index;
    }
    if (index == 0) {
      char line[32];
      const int length = std::snprintf(line, sizeof line, "%ld\n", round);
      EXPECT_EQ(pwrite(progress_fd, line, length, 0), length);
    }
    put(slots[(index + 1) % kThreads], value);
  }
  _mm256_store_ps(final_state[index], state);
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv, 1);
  if (!__builtin_cpu_supports("avx")) target::skip("this CPU has no AVX");
  rounds = std::atol(target::argument(0));
  progress_fd =
      MUST(open(target::path("progress").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  const int result =
      MUST(open(target::path("result").c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600));
  for (int i = 0; i < kThreads; i += 2) put(slots[i], 12345 + i);  // before anyone can be earlier
  pthread_t threads[kThreads];
  for (intptr_t i = 0; i < kThreads; ++i) {
    EXPECT_EQ(pthread_create(&threads[i], nullptr, run, reinterpret_cast<void*>(i)), 0);
  }
  target::ready();
  for (pthread_t thread : threads) EXPECT_EQ(pthread_join(thread, nullptr), 0);
  std::string text;
  for (Slot& slot : slots) text += std::to_string(slot.value) + "\n";
  for (const auto& state : final_state) {
    for (const float number : state) text += std::to_string(number) + " ";
    text += "\n";
  }
  EXPECT_EQ(pwrite(result, text.data(), text.size(), 0), text.size());
  target::finish();
}
