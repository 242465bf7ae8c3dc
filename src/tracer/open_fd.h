// What /proc tells of a descriptor, before anybody asks what is behind it.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <vector>

#include "tracer/file_locks.h"
#include "tracer/special_files.h"

namespace rfork::tracer {

/// A descriptor of a process, as /proc shows it.
struct OpenFd {
  pid_t pid = 0;  ///< who has it: the process, or, of what is on its way in a socket, we
  int fd = 0;
  int carrier = -1;  ///< the number of a socket in which it is on its way
  std::string path;  ///< without " (deleted)"
  struct stat status {};
  dev_t terminal = 0;  ///< the terminal that it leads to, /dev/tty too; 0: none
  int64_t offset = 0;
  int32_t flags = 0;
  bool close_on_exec = false;
  std::string info;  ///< fdinfo
  Locks locks;
};

/// The numbers of the process's descriptors. Throws Error.
std::vector<int> list_fds(pid_t pid);
/// Whether `link` of /proc leads to what has a longer path than readlink(2) can give there.
bool is_path_too_long(const std::string& link);
/// nullopt: it was closed meanwhile, or its path is too long.
std::optional<OpenFd> look_at_fd(pid_t pid, int fd);
/// Which of the open file descriptions known so far a descriptor has. They are kept in the order
/// that kcmp(2) gives them, so that a process may have thousands of one file.
class DescriptionIndex {
 public:
  /// The number under which its description was added; 0: it was not. Throws Error.
  uint32_t find(const OpenFd& open) const;
  /// One that find() doesn't know. `number` is not 0.
  void add(const OpenFd& open, uint32_t number);

 private:
  struct Known {
    pid_t pid = 0;
    int fd = 0;
    uint32_t number = 0;
  };
  using File = std::tuple<dev_t, ino_t, int32_t>;  ///< with the flags

  std::map<File, std::vector<Known>> by_file_;
};

bool is_terminal(const struct stat& status);
/// The same for who needs no more of it; refers to `open`.
SpecialFd special(const OpenFd& open);

}  // namespace rfork::tracer
