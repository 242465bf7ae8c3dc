#include "tracer/own_fifos.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>

#include "base/io.h"

namespace rfork::tracer {

using image::Description;

namespace {

std::string link_of(pid_t pid, int fd) {
  return try_read_link(fmt::format("/proc/{}/fd/{}", pid, fd)).value_or("");
}

// Empty for a pipe without a name, and for what has lost its own to another file.
std::string name_of(pid_t pid, const ChannelEnd& end) {
  std::string path = link_of(pid, end.fd);
  constexpr std::string_view kDeleted = " (deleted)";
  if (end.status.st_nlink == 0 && path.ends_with(kDeleted)) {
    path.resize(path.size() - kDeleted.size());
  }
  return path;
}

}  // namespace

void OwnFifos::look_at(const std::vector<ChannelEnd>& ends, bool relay, bool closed_ends) {
  for (const ChannelEnd& end : ends) {
    if (!S_ISFIFO(end.status.st_mode) || (end.flags & O_PATH) != 0 ||
        !link_of(pid_, end.fd).starts_with('/')) {
      continue;
    }
    Ends& fifo = fifos_[key(end)];
    const int access = end.flags & O_ACCMODE;
    fifo.read = fifo.read || access != O_WRONLY;
    fifo.written = fifo.written || access != O_RDONLY;
    fifo.closed = fifo.closed || (relay && closed_ends && other_end_closed(end));
    if (fifo.first == 0) fifo.first = end.description;
  }
  std::erase_if(fifos_, [&](const auto& entry) {
    const Ends& fifo = entry.second;
    return relay && !fifo.closed && !(fifo.read && fifo.written);
  });
  if (fifos_.empty()) return;
  for (const int pid : try_list_numbers("/proc").value_or(std::vector<int>())) {
    if (same_.contains(pid) || pid == ::getpid()) continue;
    const std::string directory = fmt::format("/proc/{}/fd", pid);
    for (const int fd : try_list_numbers(directory).value_or(std::vector<int>())) {
      struct stat status {};
      if (::stat(fmt::format("{}/{}", directory, fd).c_str(), &status) == 0 &&
          S_ISFIFO(status.st_mode)) {
        fifos_.erase({status.st_dev, status.st_ino});
      }
    }
  }
}

void OwnFifos::describe(Inventory& inventory, const InventoryInput& input, const ChannelEnd& end,
                        Description& description) const {
  const Ends& fifo = fifos_.at(key(end));
  description.kind = Description::Kind::fifo;
  description.path = name_of(pid_, end);
  description.other = fifo.first;
  description.mode = end.status.st_mode;
  description.removed = true;
  const UniqueFd named = open_in_process(pid_, description.path, O_PATH | O_NOFOLLOW);
  struct stat status {};
  if (named && ::fstat(named.get(), &status) == 0 && status.st_ino == end.status.st_ino &&
      status.st_dev == end.status.st_dev) {
    description.removed = false;
    description.file = add_file(inventory, input.earlier, named.get(), description.path);
  }
  const bool reads = (end.flags & O_ACCMODE) == O_RDONLY;
  description.count = reads && !fifo.written && !other_end_closed(end) ? 1 : 0;
  const UniqueFd own = duplicate_descriptor(pid_, end.fd);
  const int capacity = own ? ::fcntl(own.get(), F_GETPIPE_SZ) : -1;
  description.capacity = capacity > 0 ? static_cast<uint64_t>(capacity) : 0;
  int queued = 0;
  if (input.earlier == nullptr || description.other != description.id || !own ||
      ::ioctl(own.get(), FIONREAD, &queued) != 0 || queued == 0) {
    return;
  }
  const UniqueFd reader =
      open_or_throw(fmt::format("/proc/{}/fd/{}", pid_, end.fd), O_RDONLY | O_NONBLOCK);
  description.queued = peek_pipe(reader.get());
}

}  // namespace rfork::tracer
