#include "tracer/file_locks.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>

#include "base/io.h"

namespace rfork::tracer {

using image::FileLock;

namespace {

bool is_write_lease(const FileLock& lock) {
  return lock.kind == FileLock::Kind::lease && lock.exclusive;
}

// A mapping is an open of its own where it is restored, and no write lease is given beside it.
bool is_mapped_too(const Inventory& inventory, const image::Description& description) {
  return description.file && inventory.mapped_files.contains(*description.file);
}

}  // namespace

bool holds_lease(pid_t pid) {
  const std::string directory = fmt::format("/proc/{}/fdinfo", pid);
  const auto fds = try_list_numbers(directory).value_or(std::vector<int>());
  return std::ranges::any_of(fds, [&](int fd) {
    const auto info = try_read_file_at(AT_FDCWD, fmt::format("{}/{}", directory, fd));
    return info && info->find("LEASE") != std::string::npos;
  });
}

bool has_write_lease(const Locks& locks) {
  return std::ranges::any_of(locks, [](const auto& lock) {
    const auto* known = std::get_if<FileLock>(&lock);
    return known ? is_write_lease(*known) : std::get<std::string>(lock) == kBreakingLease;
  });
}

void add_locks(Inventory& inventory, int fd, const Locks& locks, image::Description& description) {
  const std::string& path = description.path;
  const auto refuse = [&](const std::string& what, const std::string& advice = {}) {
    inventory.obstacles.push_back({fmt::format("descriptor {} holds {}", fd, what),
                                   advice + "--drop-locks goes on without it"});
  };
  for (const auto& lock : locks) {
    const auto* known = std::get_if<FileLock>(&lock);
    if (known == nullptr && std::get<std::string>(lock) == kBreakingLease) {
      refuse(fmt::format("a lease on {} that is being broken: another process waits for it", path),
             "try again when the process has given it up, or ");
    } else if (known == nullptr) {
      refuse(fmt::format("a lock of the kind {} on {}, which can't be carried",
                         std::get<std::string>(lock), path));
    } else if (is_write_lease(*known) && is_mapped_too(inventory, description)) {
      refuse(fmt::format("a write lease on {}, which is mapped too: that can't be carried", path));
    } else {
      description.locks.push_back(*known);
    }
  }
}

}  // namespace rfork::tracer
