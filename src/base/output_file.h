// A file that appears under its name only when it is complete.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <span>
#include <string>

#include "base/unique_fd.h"

namespace rfork {

/// Has no name until finish(), so that not even SIGKILL leaves half of it behind. File systems
/// without O_TMPFILE get a name of its own beside the wanted one.
class OutputFile {
 public:
  /// "-" is standard output; what exists and is no regular file is written to as it is. Throws
  /// Refusal(usage) for a directory, Error when it can't be created.
  OutputFile(const std::string& path, mode_t mode);
  ~OutputFile();
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::span<const std::byte> data);
  /// Complete and on disk, under its name, replacing a file that had it.
  void finish();

 private:
  void open_beside(mode_t mode);
  void sync_directory() const;

  std::string path_;
  std::string beside_;
  UniqueFd fd_;
  bool unnamed_ = false;
};

}  // namespace rfork
