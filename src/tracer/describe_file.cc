#include <fcntl.h>
#include <fmt/format.h>
#include <linux/magic.h>
#include <sys/statfs.h>

#include "base/io.h"
#include "tracer/describe_fd.h"

namespace rfork::tracer {

using image::Description;
using image::Object;

namespace {

// The file still has the name under which it was opened (or was renamed to).
bool name_leads_to(pid_t pid, const OpenFd& open) {
  const UniqueFd fd = open_in_process(pid, open.path, O_PATH);
  struct stat status {};
  return fd && ::fstat(fd.get(), &status) == 0 && status.st_ino == open.status.st_ino &&
         status.st_dev == open.status.st_dev;
}

bool reads(const OpenFd& open) {
  return (open.flags & O_PATH) == 0 && (open.flags & O_ACCMODE) != O_WRONLY;
}

uint32_t add_contents(Inventory& inventory, const InventoryInput& input, const OpenFd& open) {
  UniqueFd fd = try_open(fmt::format("/proc/{}/fd/{}", input.pid, open.fd), O_RDONLY);
  if (!fd && reads(open)) fd = duplicate_descriptor(open.pid, open.fd);
  if (!fd) {
    inventory.obstacles.push_back(
        {fmt::format("descriptor {} is the deleted file {}, whose contents can't be read", open.fd,
                     open.path),
         fmt::format("--drop-fd {} goes on without it", open.fd)});
    return 0;
  }
  Object object;
  object.kind = open.path.starts_with("/memfd:") ? Object::Kind::memfd : Object::Kind::deleted_file;
  object.name = open.path;
  object.size = static_cast<uint64_t>(open.status.st_size);
  object.mode = open.status.st_mode & 07777;
  if (object.kind == Object::Kind::memfd) {
    const int seals = ::fcntl(fd.get(), F_GET_SEALS);
    object.seals = seals > 0 ? static_cast<uint32_t>(seals) : 0;
  }
  if (open.status.st_blksize > 4096 && object.kind == Object::Kind::memfd) {
    struct statfs file_system {};
    if (::fstatfs(fd.get(), &file_system) == 0 && file_system.f_type == HUGETLBFS_MAGIC) {
      object.huge_page_size = static_cast<uint64_t>(open.status.st_blksize);
    }
  }
  return add_object(inventory, object, open.status.st_dev, open.status.st_ino, std::move(fd));
}

// To look at it. Whoever opens a file breaks the write lease on it, and its mode may forbid what a
// descriptor may do.
struct Look {
  UniqueFd fd;
  bool through_descriptor = false;  ///< of the process
};

Look open_to_look(const InventoryInput& input, const OpenFd& open, const std::string& path) {
  Look look;
  if (!has_write_lease(open.locks)) look.fd = open_in_process(input.pid, path, O_RDONLY);
  if (look.fd) return look;
  look.through_descriptor = true;
  if (reads(open)) look.fd = duplicate_descriptor(open.pid, open.fd);
  if (!look.fd) look.fd = open_in_process(input.pid, path, O_PATH);
  return look;
}

// A regular file that has its name.
void describe_named(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                    Description& description) {
  description.kind = Description::Kind::regular;
  // O_TMPFILE has the bit of O_DIRECTORY in it; a file that was linked later is like any other.
  if ((description.flags & O_TMPFILE) == O_TMPFILE) description.flags &= ~O_TMPFILE;
  const Look look = open_to_look(input, open, description.path);
  if (!look.fd) throw_errno("open", open.path);
  description.file = add_file(inventory, input.earlier, look.fd.get(), description.path);
  inventory.open_files.insert(*description.file);
  if ((description.flags & O_ACCMODE) != O_RDONLY)
    inventory.written_files.insert(*description.file);
  if (!look.through_descriptor || open.pid != input.pid) return;
  if (reads(open)) inventory.own_readers[*description.file] = open.fd;
  if (has_write_lease(open.locks)) inventory.own_readers.emplace(*description.file, open.fd);
}

// Its name is gone or another file's, but it may have others.
bool describe_nameless(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                       Description& description) {
  if (open.status.st_nlink != 0) {
    if (const std::string name = other_name(input, special(open)); !name.empty()) {
      description.path = name;
      describe_named(inventory, input, open, description);
      return true;
    }
    if ((open.flags & O_ACCMODE) != O_RDONLY) {
      inventory.obstacles.push_back(
          {fmt::format("descriptor {} is {}, which has that name no more and another one that "
                       "isn't found: what is written to it would be lost",
                       open.fd, open.path),
           fmt::format("--drop-fd {} goes on without it", open.fd)});
      return false;
    }
  }
  description.kind = Description::Kind::contents;
  description.object = add_contents(inventory, input, open);
  return *description.object != 0;
}

}  // namespace

bool describe_file(Inventory& inventory, const InventoryInput& input, const OpenFd& open,
                   Description& description) {
  const bool named = open.status.st_nlink != 0 && name_leads_to(input.pid, open);
  if (S_ISREG(open.status.st_mode)) {
    if (!named) return describe_nameless(inventory, input, open, description);
    describe_named(inventory, input, open, description);
    return true;
  }
  description.kind = Description::Kind::directory;
  description.removed = open.status.st_nlink == 0;
  if (named) {
    const UniqueFd fd = open_in_process(input.pid, open.path, O_PATH);
    if (fd) description.file = add_file(inventory, input.earlier, fd.get(), open.path);
  }
  return true;
}

}  // namespace rfork::tracer
