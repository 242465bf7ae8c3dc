#include "session/log_store.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <vector>

#include "base/error.h"
#include "base/io.h"

namespace rfork::session {

namespace {

namespace fs = std::filesystem;
constexpr const char* kSuffix = ".log";

/// O_APPEND, because stdout and stderr are two descriptors of one file, and other processes may
/// share it.
UniqueFd unnamed_log() {
  UniqueFd fd = try_open("/tmp", O_TMPFILE | O_RDWR | O_APPEND, 0600);
  if (fd) return fd;
  fd = make_memfd("rfork log");
  if (fcntl(fd.get(), F_SETFL, O_APPEND) != 0) throw_errno("fcntl(O_APPEND)");
  return fd;
}

}  // namespace

std::string default_state_dir() {
  if (geteuid() == 0) return "/var/lib/rforkd";
  if (const char* state = std::getenv("XDG_STATE_HOME"); state != nullptr && state[0] == '/') {
    return std::string(state) + "/rforkd";
  }
  const char* const home = std::getenv("HOME");
  return home != nullptr && home[0] == '/' ? std::string(home) + "/.local/state/rforkd" : "";
}

void keep_newest(const std::string& directory, const std::string& suffix, size_t most) {
  std::vector<std::pair<fs::file_time_type, fs::path>> files;
  std::error_code error;
  for (const fs::directory_entry& entry : fs::directory_iterator(directory, error)) {
    if (entry.path().extension() != suffix) continue;
    const auto time = entry.last_write_time(error);
    if (!error) files.emplace_back(time, entry.path());
  }
  if (files.size() <= most) return;
  std::ranges::sort(files);
  files.resize(files.size() - most);
  for (const auto& [time, path] : files) fs::remove(path, error);
}

LogStore::LogStore(const std::string& state_dir, size_t max_former) {
  if (state_dir.empty()) {
    problem_ = "no state directory is known";
    return;
  }
  const std::string logs = state_dir + "/logs";
  std::error_code error;
  fs::create_directories(state_dir, error);
  if (!error && ::mkdir(logs.c_str(), 0700) != 0 && errno != EEXIST) {
    error.assign(errno, std::generic_category());
  }
  if (!error && ::access(logs.c_str(), W_OK | X_OK) != 0) {
    error.assign(errno, std::generic_category());
  }
  if (error) {
    problem_ = logs + ": " + error.message();
    return;
  }
  directory_ = logs;
  keep_newest(directory_, kSuffix, max_former);
}

LogStore::Log LogStore::create(const std::string& move_id) const {
  if (directory_.empty()) return {unnamed_log(), ""};
  std::string path = directory_ + "/" + move_id + kSuffix;
  UniqueFd fd = open_or_throw(path, O_RDWR | O_APPEND | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  return {std::move(fd), std::move(path)};
}

void LogStore::remove(const std::string& path) {
  if (!path.empty()) ::unlink(path.c_str());
}

}  // namespace rfork::session
