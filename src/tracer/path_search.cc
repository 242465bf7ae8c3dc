#include "tracer/path_search.h"

#include <dirent.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <memory>
#include <set>

#include "tracer/mounts.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

using Clock = std::chrono::steady_clock;

/// file_handle with room for the largest one.
struct Handle {
  alignas(file_handle) char bytes[sizeof(file_handle) + MAX_HANDLE_SZ];
  file_handle* get() { return reinterpret_cast<file_handle*>(bytes); }
};

/// nullopt: the file system has no handles, or of another type than the kernel told.
std::optional<bool> same_handle(const std::string& path, bool follow, const WantedInode& wanted) {
  Handle handle;
  handle.get()->handle_bytes = MAX_HANDLE_SZ;
  int mount = 0;
  if (wanted.handle.empty() ||
      ::name_to_handle_at(AT_FDCWD, path.c_str(), handle.get(), &mount,
                          follow ? AT_SYMLINK_FOLLOW : 0) != 0 ||
      handle.get()->handle_type != wanted.handle_type) {
    return std::nullopt;
  }
  return handle.get()->handle_bytes == wanted.handle.size() &&
         std::memcmp(handle.get()->f_handle, wanted.handle.data(), wanted.handle.size()) == 0;
}

std::vector<std::string> zero_terminated(const std::string& path) {
  std::vector<std::string> words;
  const auto text = try_read_file_at(AT_FDCWD, path);
  if (!text) return words;
  for (const std::string_view word : split(*text, '\0')) words.emplace_back(word);
  return words;
}

class Search {
 public:
  Search(pid_t pid, std::span<const WantedInode> wanted, std::chrono::milliseconds patience)
      : pid_(pid),
        root_(fmt::format("/proc/{}/root", pid)),
        wanted_(wanted),
        found_(wanted.size()),
        left_(wanted.size()),
        mounts_(mounts_of(pid)),
        end_(Clock::now() + patience) {
    for (const WantedInode& one : wanted) {
      devices_.insert(one.device);
      for (const Mount& mount : mounts_) {
        struct stat status {};
        if (mount.device == one.device && ::lstat((root_ + mount.point).c_str(), &status) == 0) {
          devices_.insert(status.st_dev);
        }
      }
    }
  }

  std::vector<std::optional<FoundName>> run(const std::vector<std::string>& known) {
    for (const std::string& path : known) look_at(path);
    for (const std::string& path : own_names()) look_at_with_parents(path);
    ask_by_handle();
    for (const Mount& mount : mounts_) {
      // Others may be of a server that doesn't answer.
      if (mount.is_proc || !wants_device(mount.device)) continue;
      look_at(mount.point);
      remember(mount.point);
    }
    while (left_ > 0 && !queue_.empty() && Clock::now() < end_) {
      const std::string directory = std::move(queue_.front());
      queue_.pop_front();
      walk(directory);
    }
    return std::move(found_);
  }

 private:
  bool wants_device(uint64_t device) const {
    return std::ranges::any_of(wanted_, [&](const auto& one) { return one.device == device; });
  }

  void remember(const std::string& directory) {
    if (seen_.insert(directory).second) queue_.push_back(directory);
  }

  void look_at(const std::string& path) {
    if (left_ == 0 || !path.starts_with('/')) return;
    struct stat status {};
    if (::lstat((root_ + path).c_str(), &status) != 0) return;
    match(path, status, S_ISLNK(status.st_mode));
    if (S_ISLNK(status.st_mode) && ::stat((root_ + path).c_str(), &status) == 0) {
      match(path, status, false);
    }
  }

  void look_at_with_parents(std::string path) {
    for (; !path.empty() && path.starts_with('/') && left_ > 0; path.resize(path.rfind('/'))) {
      look_at(path);
      struct stat status {};
      if (::lstat((root_ + path).c_str(), &status) == 0 && S_ISDIR(status.st_mode)) remember(path);
    }
    look_at("/");
  }

  void match(const std::string& path, const struct stat& status, bool symbolic_link) {
    for (size_t i = 0; i < wanted_.size(); ++i) {
      if (found_[i] || wanted_[i].inode != status.st_ino || !devices_.contains(status.st_dev)) {
        continue;
      }
      if (!same_handle(root_ + path, !symbolic_link, wanted_[i]).value_or(true)) continue;
      found_[i] = FoundName{path, symbolic_link,
                            status.st_ctim.tv_sec * 1'000'000'000 + status.st_ctim.tv_nsec};
      --left_;
    }
  }

  /// All that looks like a path among what the process was started with and has open.
  std::vector<std::string> own_names() const {
    std::vector<std::string> names;
    const std::string directory = fmt::format("/proc/{}/", pid_);
    const std::string cwd = try_read_link(directory + "cwd").value_or("/");
    names.push_back(cwd);
    for (const int fd : try_list_numbers(directory + "fd").value_or(std::vector<int>())) {
      names.push_back(try_read_link(fmt::format("{}fd/{}", directory, fd)).value_or(""));
    }
    for (const std::string& word : zero_terminated(directory + "cmdline")) {
      for (const std::string& part : {word, word.substr(word.find('=') + 1)}) {
        names.push_back(part.starts_with('/') ? part : cwd + "/" + part);
      }
    }
    for (const std::string& word : zero_terminated(directory + "environ")) {
      const std::string value = word.substr(word.find('=') + 1);
      for (const std::string_view part : split(value, ':')) {
        names.emplace_back(part);
      }
    }
    names.push_back(try_read_link(directory + "exe").value_or(""));
    std::erase_if(names, [](const std::string& name) { return !name.starts_with('/'); });
    return names;
  }

  void ask_by_handle() {
    for (const WantedInode& wanted : wanted_) {
      if (wanted.handle.empty() || wanted.handle.size() > MAX_HANDLE_SZ) continue;
      Handle handle;
      handle.get()->handle_bytes = static_cast<unsigned>(wanted.handle.size());
      handle.get()->handle_type = wanted.handle_type;
      std::memcpy(handle.get()->f_handle, wanted.handle.data(), wanted.handle.size());
      for (const Mount& mount : mounts_) {
        if (mount.device != wanted.device || mount.is_proc) continue;
        const UniqueFd point = try_open(root_ + mount.point, O_RDONLY | O_DIRECTORY);
        if (!point) continue;
        const UniqueFd file(
            ::open_by_handle_at(point.get(), handle.get(), O_PATH | O_NOFOLLOW | O_CLOEXEC));
        if (!file) continue;
        look_at(try_read_link(fmt::format("/proc/self/fd/{}", file.get())).value_or(""));
      }
    }
  }

  void walk(const std::string& directory) {
    const UniqueFd fd =
        try_open(root_ + directory, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_NOFOLLOW);
    struct stat status {};
    if (!fd || ::fstat(fd.get(), &status) != 0 || !devices_.contains(status.st_dev)) return;
    const std::unique_ptr<DIR, int (*)(DIR*)> stream(::fdopendir(::dup(fd.get())), ::closedir);
    if (!stream) return;
    const std::string prefix = directory == "/" ? directory : directory + "/";
    while (const dirent* entry = ::readdir(stream.get())) {
      const std::string_view name = entry->d_name;
      if (name == "." || name == "..") continue;
      if (std::ranges::any_of(wanted_, [&](const auto& w) { return w.inode == entry->d_ino; })) {
        look_at(prefix + entry->d_name);
      }
      if (entry->d_type == DT_DIR) remember(prefix + entry->d_name);
      if (left_ == 0) return;
    }
  }

  pid_t pid_;
  std::string root_;
  std::span<const WantedInode> wanted_;
  std::vector<std::optional<FoundName>> found_;
  size_t left_;
  std::vector<Mount> mounts_;
  std::set<uint64_t> devices_;  ///< as stat(2) shows those of what is wanted
  std::deque<std::string> queue_;
  std::set<std::string> seen_;
  Clock::time_point end_;
};

}  // namespace

std::vector<std::optional<FoundName>> find_names(pid_t pid, std::span<const WantedInode> wanted,
                                                 const std::vector<std::string>& known,
                                                 std::chrono::milliseconds patience) {
  if (wanted.empty()) return {};
  return Search(pid, wanted, patience).run(known);
}

}  // namespace rfork::tracer
