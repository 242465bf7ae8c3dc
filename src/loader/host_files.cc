#include "loader/host_files.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/io.h"
#include "base/text.h"
#include "image/files.h"

namespace rfork::loader {

using image::Description;
using image::File;
using image::Mapping;
using image::Object;

int reopen_flags(int flags) {
  return flags & (O_ACCMODE | O_APPEND | O_NONBLOCK | O_DSYNC | O_SYNC | O_ASYNC | O_DIRECT |
                  O_LARGEFILE | O_DIRECTORY | O_NOFOLLOW | O_NOATIME | O_PATH);
}

UniqueFd reopen(int fd, int flags) {
  // O_NOFOLLOW would refuse the link of /proc itself.
  return try_open(fmt::format("/proc/self/fd/{}", fd), reopen_flags(flags) & ~O_NOFOLLOW);
}

namespace {

bool has_leases(const image::Snapshot& snapshot) {
  return std::ranges::any_of(snapshot.descriptions, [](const Description& description) {
    return std::ranges::any_of(description.locks, [](const image::FileLock& lock) {
      return lock.kind == image::FileLock::Kind::lease;
    });
  });
}

}  // namespace

HostFiles::HostFiles(const image::Snapshot& snapshot, const Options& options, Findings& findings)
    : snapshot_(snapshot),
      options_(options),
      findings_(findings),
      leases_(has_leases(snapshot) ? image::Leases::of_this_host() : image::Leases("")) {
  same_boot_ = read_file("/proc/sys/kernel/random/boot_id").starts_with(snapshot.host.boot_id) &&
               !snapshot.host.boot_id.empty();
  for (const Object& object : snapshot.objects) {
    if (!object.file) continue;
    if (object.kind == Object::Kind::file) carried_files_[*object.file] = &object;
    if (object.kind == Object::Kind::file_pages) file_pages_[*object.file] = &object;
  }
  for (const File& file : snapshot.files) {
    if (S_ISDIR(file.mode)) created_.know_directory(file.path, file.mode & 07777);
  }
  place_objects();
  place_mappings();
  place_executable();
}

// --- files that are mapped ---

void HostFiles::place_mappings() {
  for (const image::Process& process : snapshot_.processes) {
    for (const Mapping& mapping : process.mappings) {
      if (mapping.kind == Mapping::Kind::file) {
        const File* file = image::find_id(snapshot_.files, mapping.backing);
        if (file == nullptr) {
          findings_.refuse(
              fmt::format("the image names no file for its mapping at {:#x}", mapping.range.start));
          continue;
        }
        find_file(*file, mapping);
        if (mapping.shared && mapping.may_write)
          find_writable(*file, (mapping.protection & PROT_WRITE) != 0);
      } else if (mapping.kind == Mapping::Kind::object) {
        const auto found = objects_.find(mapping.backing);
        if (found == objects_.end()) {
          findings_.refuse(fmt::format("the image carries no contents for its mapping at {:#x}",
                                       mapping.range.start));
        } else if (mapping.shared && !mapping.may_write && found->second.fd) {
          // A seal against writing is refused while a mapping could be made writable.
          found->second.read_only = reopen(found->second.fd.get(), O_RDONLY);
        }
      }
    }
  }
}

/// Opens what has the file's name. The process may have got it by other rights than those of its
/// user: root, which could make that process of the image in any case, opens the very same file.
UniqueFd HostFiles::open_here(const File& file, int flags) const {
  UniqueFd fd = open_as_owner(file.path, flags);
  if (fd || errno != EACCES || !options_.as_image_user) return fd;
  fd = open_as_root(file.path, flags);
  if (fd && !image::same_inode(file, image::identify(fd.get(), file.path), same_boot_)) {
    fd.reset();
    errno = EACCES;
  }
  return fd;
}

UniqueFd HostFiles::open_same_inode(const File& file) const {
  UniqueFd fd = open_here(file, O_RDONLY);
  if (fd && !image::same_inode(file, image::identify(fd.get(), file.path), same_boot_)) fd.reset();
  return fd;
}

/// A file of the image's pages, for a host that lacks the file.
void HostFiles::stand_in(const File& file, const Object& pages, MappedFile& mapped) {
  Contents contents = unnamed(pages);
  if (!contents.fd || ::ftruncate(contents.fd.get(), static_cast<off_t>(file.size)) < 0) return;
  mapped.read_only = contents.fd.get();
  mapped.writable = reopen(mapped.read_only, O_RDWR);
  objects_[pages.id] = std::move(contents);
}

void HostFiles::find_file(const File& file, const Mapping& mapping) {
  MappedFile& mapped = files_[file.id];
  if (mapped.read_only >= 0 || refused_files_.contains(file.id)) return;
  const auto agreed = options_.agreed_files.find(file.id);
  const auto carried = carried_files_.find(file.id);
  const auto pages = file_pages_.find(file.id);
  if (agreed != options_.agreed_files.end()) {
    mapped.read_only = agreed->second;
  } else if (carried != carried_files_.end() && objects_[carried->second->id].fd) {
    mapped.read_only = objects_[carried->second->id].fd.get();
    mapped.writable = reopen(mapped.read_only, O_RDWR);
  } else if (!leases_.broken_by_open(file.path, O_RDONLY) &&
             ((mapping.shared && (mapped.own = open_same_inode(file))) ||
              (mapped.own = image::open_same(file, same_boot_)))) {
    mapped.read_only = mapped.own.get();
  } else if (pages != file_pages_.end()) {
    stand_in(file, *pages->second, mapped);
    if (mapping.shared && (mapping.protection & PROT_WRITE) != 0) {
      findings_.warn(file.path +
                     " isn't here: what the process writes to its mapping stays in memory");
    }
  }
  struct stat here {};
  if (mapped.own && ::fstat(mapped.own.get(), &here) == 0 &&
      static_cast<uint64_t>(here.st_size) < file.size) {
    accept(fmt::format("the mapped file {} was cut from {} to {} bytes since the capture",
                       file.path, file.size, here.st_size),
           options_.changed_files, "--changed-files goes on with it as it is");
  }
  if (mapped.read_only >= 0) return;
  refused_files_.insert(file.id);
  findings_.refuse(
      fmt::format(
          "the mapped file {} isn't here with the same contents, and the image doesn't carry it",
          file.path),
      "install it, or write the image without --thin");
}

/// A shared mapping that may write needs the file itself, open for writing.
void HostFiles::find_writable(const File& file, bool must_write) {
  MappedFile& mapped = files_[file.id];
  if (mapped.read_only < 0 || mapped.writable) return;
  mapped.writable = open_here(file, O_RDWR);
  if (mapped.writable) {
    struct stat a, b;
    const bool same = ::fstat(mapped.read_only, &a) == 0 &&
                      ::fstat(mapped.writable.get(), &b) == 0 && a.st_dev == b.st_dev &&
                      a.st_ino == b.st_ino;
    if (!same) mapped.writable.reset();
  }
  if (!mapped.writable && must_write) {
    findings_.refuse(fmt::format(
        "{} is mapped shared and writable, and can't be opened for writing here", file.path));
  }
}

int HostFiles::mapping_fd(const Mapping& mapping) const {
  if (mapping.kind == Mapping::Kind::object) {
    const auto found = objects_.find(mapping.backing);
    if (found == objects_.end()) return -1;
    const Contents& contents = found->second;
    const bool reads = mapping.shared ? !mapping.may_write : contents.program;
    return reads && contents.read_only ? contents.read_only.get() : contents.fd.get();
  }
  const auto found = files_.find(mapping.backing);
  if (found == files_.end()) return -1;
  const MappedFile& file = found->second;
  return mapping.shared && mapping.may_write && file.writable ? file.writable.get()
                                                              : file.read_only;
}

std::vector<std::pair<int, uint32_t>> HostFiles::seals() const {
  std::vector<std::pair<int, uint32_t>> seals;
  for (const Object& object : snapshot_.objects) {
    const auto found = objects_.find(object.id);
    if (object.kind == Object::Kind::memfd && object.seals != 0 && found != objects_.end() &&
        found->second.fd) {
      seals.emplace_back(found->second.fd.get(), object.seals);
    }
  }
  return seals;
}

void HostFiles::place_executable() {
  for (const image::Process& process : snapshot_.processes) {
    if (process.executable_deleted) {
      const auto found = objects_.find(process.executable);
      if (found == objects_.end()) continue;
      Contents& contents = found->second;
      executable_ = contents.fd.get();
      const Object* const object = image::find_id(snapshot_.objects, process.executable);
      if (object == nullptr || object->kind != Object::Kind::deleted_file) continue;
      contents.program = true;
      if (!contents.read_only) contents.read_only = reopen(contents.fd.get(), O_RDONLY);
      executable_ = contents.read_only.get();
      executable_writer_ = contents.fd.get();
      continue;
    }
    const auto mapped = files_.find(process.executable);
    if (mapped != files_.end()) executable_ = mapped->second.read_only;
  }
}

// --- files that are open ---

UniqueFd HostFiles::open_description(const Description& description) {
  const int flags = reopen_flags(description.flags);
  if (description.kind == Description::Kind::contents) {
    const auto found = description.object ? objects_.find(*description.object) : objects_.end();
    if (found == objects_.end() || !found->second.fd) {
      findings_.refuse(fmt::format("the image carries no contents of {}", description.path));
      return {};
    }
    // O_TMPFILE has the bit of O_DIRECTORY in it, and F_GETFL shows it.
    UniqueFd fd = reopen(found->second.fd.get(), flags & ~O_TMPFILE);
    if (!fd)
      findings_.refuse(
          fmt::format("{} can't be reopened: {}", description.path, std::strerror(errno)));
    return fd;
  }
  const File* file =
      description.file ? image::find_id(snapshot_.files, *description.file) : nullptr;
  if (file == nullptr) {
    findings_.refuse(fmt::format("the image says nothing of the open file {}", description.path));
    return {};
  }
  if (refused_files_.contains(file->id)) return {};
  const auto carried = carried_files_.find(file->id);
  UniqueFd fd;
  if (carried != carried_files_.end() && objects_[carried->second->id].fd) {
    fd = reopen(objects_[carried->second->id].fd.get(), flags);
    if (!fd)
      findings_.refuse(
          fmt::format("{} can't be opened: {}", description.path, std::strerror(errno)));
  } else {
    fd = open_named(description, *file, flags);
  }
  if (fd && !is_one_file(*file, fd.get())) fd.reset();
  return fd;
}

/// Several names of one file at the origin are to lead to one file here.
bool HostFiles::is_one_file(const File& there, int fd) {
  struct stat here {};
  if (::fstat(fd, &here) != 0) return true;
  const auto [first, added] = opened_.try_emplace({there.device, there.inode},
                                                  Identity{here.st_dev, here.st_ino, there.path});
  const Identity& known = first->second;
  if (added || (known.device == here.st_dev && known.inode == here.st_ino)) return true;
  return accept(fmt::format("{} and {} are two files here, and were one", known.path, there.path),
                options_.changed_files, "--changed-files takes them as they are");
}

/// Who holds a lease is asked to give it up by whoever opens the file: what a copy must not do to
/// its original.
bool HostFiles::would_break_lease(const std::string& path, int flags) {
  const auto holder = leases_.broken_by_open(path, flags);
  if (holder) refuse_leased(path, fmt::format("process {}", *holder));
  return holder.has_value();
}

void HostFiles::refuse_leased(const std::string& path, const std::string& holder) {
  findings_.refuse(
      fmt::format("{} is under a lease of {} here (fcntl(2), F_SETLEASE), which to open it would "
                  "break",
                  path, holder),
      "end that process, or go on without the file with --drop-fd N");
}

UniqueFd HostFiles::open_named(const Description& description, const File& file, int flags) {
  if (would_break_lease(description.path, flags)) return {};
  UniqueFd fd = open_here(file, flags);
  if (!fd && errno == EPERM && (flags & O_NOATIME) != 0)
    fd = open_at_once(description.path, flags & ~O_NOATIME);
  if (!fd && errno == EWOULDBLOCK) {
    refuse_leased(description.path, "a process that can't be seen");
    return {};
  }
  if (!fd) {
    const int reason = errno;
    findings_.refuse(fmt::format("the open file {} can't be opened here: {}", description.path,
                                 std::strerror(reason)),
                     reason == ENOENT ? "copy it here, or write the image without --thin" : "");
    return {};
  }
  if (!check_same(description, file, fd.get())) return {};
  return fd;
}

namespace {

/// Once, whatever descriptors lead to it.
void say_written(const File& file, Findings& findings) {
  std::string words = fmt::format("the open file {} was written since the capture", file.path);
  if (std::ranges::find(findings.warnings, words) == findings.warnings.end())
    findings.warn(std::move(words));
}

}  // namespace

bool HostFiles::check_same(const Description& description, const File& there, int fd) {
  const File here = image::identify(fd, description.path);
  if (image::same_inode(there, here, same_boot_)) {
    if (here.size == there.size) {
      if (here.mtime_ns != there.mtime_ns) say_written(there, findings_);
      return true;
    }
    const bool cut = here.size < there.size;
    return accept(
        fmt::format("the open file {} {} from {} to {} bytes since the capture", description.path,
                    cut ? "was cut" : "has grown", there.size, here.size),
        !cut || options_.changed_files, "--changed-files goes on with it as it is");
  }
  if (options_.agreed_files.contains(there.id) || image::same_contents(there, here, same_boot_))
    return true;
  if (image::open_same(there, same_boot_)) return true;
  return accept(
      fmt::format("{} is another file here ({}) than the one that was open ({})", description.path,
                  human_bytes(here.size), human_bytes(there.size)),
      options_.changed_files,
      "copy it here, or write the image without --thin; --changed-files takes it as it is");
}

/// What differs is said, or is the reason why not.
bool HostFiles::accept(std::string difference, bool accepted, std::string advice) {
  if (accepted) {
    findings_.warn(std::move(difference));
  } else {
    findings_.refuse(std::move(difference), std::move(advice));
  }
  return accepted;
}

}  // namespace rfork::loader
