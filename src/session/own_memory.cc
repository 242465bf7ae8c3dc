#include "session/own_memory.h"

#include <fcntl.h>
#include <malloc.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

#include "base/io.h"

namespace rfork::session {

void give_memory_back() {
  ::malloc_trim(0);
  const auto smaps = try_read_file_at(AT_FDCWD, "/proc/self/smaps");
  if (!smaps) return;
  std::vector<std::pair<unsigned long, unsigned long>> untouched;
  unsigned long first = 0, last = 0;
  bool of_file = false;
  for (size_t at = 0; at < smaps->size();) {
    const size_t end = std::min(smaps->find('\n', at), smaps->size());
    const std::string line = smaps->substr(at, end - at);
    at = end + 1;
    char protection[5] = "";
    unsigned long start = 0, end_of_range = 0;
    if (std::sscanf(line.c_str(), "%lx-%lx %4s", &start, &end_of_range, protection) == 3) {
      first = start;
      last = end_of_range;
      of_file = line.find('/') != std::string::npos && protection[1] == '-';
    }
    unsigned long own_kb = 1;
    if (of_file && std::sscanf(line.c_str(), "Anonymous: %lu kB", &own_kb) == 1 && own_kb == 0) {
      untouched.emplace_back(first, last);
    }
  }
  // All at once: what runs here comes back.
  for (const auto& [start, end] : untouched) {
    ::madvise(reinterpret_cast<void*>(start), end - start, MADV_DONTNEED);
  }
}

}  // namespace rfork::session
