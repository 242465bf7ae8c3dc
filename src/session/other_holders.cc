#include "session/other_holders.h"

#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <vector>

#include "base/io.h"

namespace rfork::session {

OtherHolders::OtherHolders(int fd, bool to_read)
    : name_(try_read_link(fmt::format("/proc/self/fd/{}", fd)).value_or("")),
      access_(to_read ? S_IRUSR : S_IWUSR) {}

/// The mode of the link itself says for what it is open.
bool OtherHolders::is_it(const std::string& entry) const {
  struct stat status {};
  return try_read_link(entry) == name_ && ::lstat(entry.c_str(), &status) == 0 &&
         (status.st_mode & access_) != 0;
}

bool OtherHolders::found_in(pid_t pid) {
  const std::string directory = fmt::format("/proc/{}/fd", pid);
  for (const int fd : try_list_numbers(directory).value_or(std::vector<int>())) {
    const std::string entry = fmt::format("{}/{}", directory, fd);
    if (!is_it(entry)) continue;
    entry_ = entry;
    return true;
  }
  return false;
}

bool OtherHolders::exist() {
  if (!entry_.empty() && is_it(entry_)) return true;
  entry_.clear();
  for (const int pid : try_list_numbers("/proc").value_or(std::vector<int>())) {
    if (pid != ::getpid() && found_in(pid)) return true;
  }
  return false;
}

}  // namespace rfork::session
