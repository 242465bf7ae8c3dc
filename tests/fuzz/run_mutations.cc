// Runs a fuzz target on mutations of the files it is given, for compilers without libFuzzer:
// run_mutations COUNT SEED FILE...
//
// Few changes at a time, in the part before the page data mostly, so that most of the input stays
// sensible.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <random>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

namespace {

using Input = std::vector<uint8_t>;

class Mutator {
 public:
  explicit Mutator(uint32_t seed) : random_(seed) {}

  Input mutate(Input input) {
    const size_t changes = 1 + below(4);
    for (size_t i = 0; i < changes && !input.empty(); ++i) change(input);
    return input;
  }

 private:
  size_t below(size_t limit) { return random_() % limit; }

  void change(Input& input) {
    const size_t at = below(input.size());
    switch (below(6)) {
      case 0:
        input[at] ^= static_cast<uint8_t>(1u << below(8));
        break;
      case 1:
        input[at] = static_cast<uint8_t>(random_());
        break;
      case 2:
        input[at] = static_cast<uint8_t>(below(2) == 0 ? 0xff : 0);
        break;
      case 3: {  // a number of eight bytes, extreme
        const uint64_t numbers[] = {0, ~uint64_t{0}, uint64_t{1} << 63, uint64_t{1} << 47, 4096};
        const uint64_t number = numbers[below(std::size(numbers))];
        for (size_t i = 0; i < 8 && at + i < input.size(); ++i) {
          input[at + i] = static_cast<uint8_t>(number >> (8 * i));
        }
        break;
      }
      case 4: {  // bytes of elsewhere
        const size_t from = below(input.size());
        for (size_t i = 0; i < 16 && std::max(at, from) + i < input.size(); ++i) {
          input[at + i] = input[from + i];
        }
        break;
      }
      default:
        if (below(8) == 0) input.resize(at);
    }
  }

  std::mt19937 random_;
};

}  // namespace

int main(int argc, char** argv) {
  if (argc < 4) {
    std::fputs("usage: run_mutations COUNT SEED FILE...\n", stderr);
    return 2;
  }
  const long count = std::atol(argv[1]);
  Mutator mutator(static_cast<uint32_t>(std::atol(argv[2])));
  for (int i = 3; i < argc; ++i) {
    std::ifstream in(argv[i], std::ios::binary);
    if (!in) {
      std::perror(argv[i]);
      return 1;
    }
    const Input input((std::istreambuf_iterator<char>(in)), {});
    LLVMFuzzerTestOneInput(input.data(), input.size());
    for (long n = 0; n < count; ++n) {
      const Input mutated = mutator.mutate(input);
      LLVMFuzzerTestOneInput(mutated.data(), mutated.size());
    }
  }
  return 0;
}
