#include "tools/loader_program.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <fmt/ranges.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <sstream>
#include <vector>

#include "base/error.h"
#include "image/front.h"

namespace rfork::tools {

namespace {

constexpr const char* kName = "rfork-run";

/// Where it may lie, best first.
std::vector<std::string> folders() {
  std::vector<std::string> found;
  if (const auto own = try_read_link("/proc/self/exe")) {
    const std::string folder = own->substr(0, own->rfind('/'));
    found = {folder, folder + "/../libexec/rfork"};
  }
  const char* path = std::getenv("PATH");
  std::istringstream list(path == nullptr ? "" : path);
  for (std::string folder; std::getline(list, folder, ':');) {
    if (!folder.empty()) found.push_back(folder);
  }
  return found;
}

bool can_be_run(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode) &&
         ::access(path.c_str(), X_OK) == 0;
}

std::string find() {
  const std::vector<std::string> all = folders();
  for (const std::string& folder : all) {
    if (std::string path = folder + "/" + kName; can_be_run(path)) return path;
  }
  throw Refusal(Failure::internal,
                fmt::format("{} isn't there to be put in front of the image: looked in {}", kName,
                            fmt::join(all, ", ")),
                "install it beside rfork-trace");
}

}  // namespace

LoaderFront loader_front() {
  LoaderFront front;
  front.program = find();
  const std::string program = read_file(front.program);
  front.needs_libraries = image::needs_shared_libraries(as_bytes(program));
  try {
    front.bytes = image::make_front(as_bytes(program));
  } catch (const Refusal& refusal) {
    throw Refusal(refusal.failure(), front.program + ": " + refusal.reasons()[0].what,
                  refusal.reasons()[0].advice);
  }
  return front;
}

}  // namespace rfork::tools
