// Files and directories that a restore creates under names, and takes back unless it succeeds.
//
// Contents are written under a name of their own beside the final one, which appears when the child
// is let go: a restore that breaks leaves no half file, and never touches the file that it was to
// replace.
#pragma once

#include <sys/types.h>

#include <map>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace rfork::loader {

class CreatedFiles {
 public:
  CreatedFiles() = default;
  ~CreatedFiles();  ///< removes what was not kept
  CreatedFiles(const CreatedFiles&) = delete;
  CreatedFiles& operator=(const CreatedFiles&) = delete;

  /// Should the directory `path` have to be made, it gets that mode.
  void know_directory(const std::string& path, mode_t mode) { modes_[path] = mode; }

  /// Makes `path` and missing parents. Gives the ones it made, outermost first; nullopt-like empty
  /// result and errno when it fails (`ok` false).
  bool make_directories(const std::string& path, std::vector<std::string>* made);

  /// A directory that had the name `path` and has none any more. Empty with errno set on failure.
  static UniqueFd removed_directory(const std::string& path);

  /// An empty file, open both ways, that will be called `path` after keep(). Empty UniqueFd with
  /// errno set on failure. `replace`: an existing file of that name is replaced.
  UniqueFd create(const std::string& path, bool replace);

  /// The file that is open as `fd` will be called `path`, too: link(2). False with errno set on
  /// failure.
  bool link(int fd, const std::string& path, bool replace);

  /// An empty FIFO that will be called `path` after keep(), and its name until then; empty with
  /// errno set on failure.
  std::string create_fifo(const std::string& path, mode_t mode);

  /// A symbolic link to `target` that will be called `path` after keep(), and its name until then;
  /// empty with errno set on failure.
  std::string create_symlink(const std::string& target, const std::string& path);

  /// The names appear now. Throws Error when one can't; those before it have appeared.
  void keep();

 private:
  struct Pending {
    std::string temporary, path;
    bool replace;
  };
  std::vector<Pending> files_;
  std::vector<std::string> directories_;  ///< that were made, outermost first
  std::map<std::string, mode_t> modes_;   ///< of directories at the origin
};

}  // namespace rfork::loader
