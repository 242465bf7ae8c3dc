#include "tracer/shared_objects.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/kcmp.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <optional>
#include <set>
#include <string>
#include <string_view>

#include "base/io.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

/// One eventfd has one number, whatever descriptions lead to it (proc(5), since Linux 5.2); of all
/// others kcmp(2) tells whether it is the same description.
std::optional<std::string> eventfd_id(std::string_view info) {
  return value_of(info, "eventfd-id");
}

/// What another process has.
struct OtherFd {
  pid_t pid = 0;
  int fd = 0;
  std::optional<std::string> eventfd_id;
};

bool is_same(pid_t pid, const KernelObjectFd& object, const OtherFd& other) {
  if (const auto id = eventfd_id(object.info)) return other.eventfd_id == id;
  return ::syscall(SYS_kcmp, pid, other.pid, KCMP_FILE, object.fd, other.fd) == 0;
}

/// All processes were looked through while this one ran, so that it needn't wait for that now.
bool looked_at_before(const Inventory* earlier, const KernelObjectFd& object) {
  if (earlier == nullptr) return false;
  return std::ranges::any_of(earlier->descriptors, [&](const image::Descriptor& descriptor) {
    if (descriptor.fd != object.fd) return false;
    const image::Description* const description =
        image::find_id(earlier->descriptions, descriptor.description);
    return description != nullptr && description->path == object.link;
  });
}

void add_obstacle(Inventory& inventory, const KernelObjectFd& object, pid_t holder) {
  const std::string kind = object.link.substr(object.link.find(':') + 1);
  inventory.obstacles.push_back(
      {fmt::format("descriptor {} is a kernel object ({}) that process {} ({}) has too, which "
                   "can't be carried",
                   object.fd, kind, holder, name_of(holder)),
       fmt::format("--drop-fd {} goes on without it", object.fd)});
}

}  // namespace

bool descends_from(pid_t pid, pid_t ancestor) {
  while (pid > 1 && pid != ancestor) {
    const auto status = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/status", pid));
    pid = status ? std::atoi(value_of(*status, "PPid").value_or("0").c_str()) : 0;
  }
  return pid == ancestor;
}

std::string name_of(pid_t pid) {
  std::string name = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/comm", pid)).value_or("?\n");
  name.pop_back();
  return name;
}

void refuse_shared_objects(Inventory& inventory, const InventoryInput& input,
                           std::vector<KernelObjectFd> objects) {
  std::erase_if(objects,
                [&](const auto& object) { return looked_at_before(input.earlier, object); });
  if (objects.empty() || input.forked) return;
  std::set<int> refused;
  for (const int pid : try_list_numbers("/proc").value_or(std::vector<int>())) {
    if (pid == input.pid || pid == input.copy || pid == ::getpid()) continue;
    const std::string directory = fmt::format("/proc/{}/fd", pid);
    for (const int fd : try_list_numbers(directory).value_or(std::vector<int>())) {
      const auto link = try_read_link(fmt::format("{}/{}", directory, fd));
      if (!link || !link->starts_with("anon_inode:")) continue;
      OtherFd other{pid, fd, {}};
      if (*link == "anon_inode:[eventfd]") {
        const auto info = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/fdinfo/{}", pid, fd));
        other.eventfd_id = eventfd_id(info.value_or(""));
      }
      for (const KernelObjectFd& object : objects) {
        if (object.link != *link || refused.contains(object.fd) ||
            !is_same(input.pid, object, other) ||
            (input.leave_children && descends_from(pid, input.pid))) {
          continue;
        }
        add_obstacle(inventory, object, pid);
        refused.insert(object.fd);
      }
    }
  }
}

}  // namespace rfork::tracer
