// The part of HostFiles that places contents which the image carries.
#include <fcntl.h>
#include <fmt/format.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "base/error.h"
#include "base/io.h"
#include "base/text.h"
#include "image/files.h"
#include "loader/host_files.h"

namespace rfork::loader {

using image::Description;
using image::File;
using image::Mapping;
using image::Object;

namespace {

bool is_open(const image::Snapshot& snapshot, uint32_t description) {
  for (const image::Process& process : snapshot.processes) {
    const auto& descriptors = process.descriptors;
    if (std::ranges::find(descriptors, description, &image::Descriptor::description) !=
        descriptors.end())
      return true;
  }
  return std::ranges::any_of(snapshot.descriptions, [&](const Description& other) {
    return other.socket && std::ranges::any_of(other.socket->messages, [&](const auto& message) {
             return std::ranges::find(message.descriptions, description) !=
                    message.descriptions.end();
           });
  });
}

/// Not that of a descriptor that was dropped: nothing is made of its contents.
bool is_wanted(const image::Snapshot& snapshot, uint32_t file) {
  for (const image::Process& process : snapshot.processes) {
    if (!process.executable_deleted && process.executable == file) return true;
    for (const Mapping& mapping : process.mappings)
      if (mapping.kind == Mapping::Kind::file && mapping.backing == file) return true;
  }
  return std::ranges::any_of(snapshot.descriptions, [&](const Description& description) {
    return description.file == file && is_open(snapshot, description.id);
  });
}

}  // namespace

void HostFiles::place_objects() {
  for (const Object& object : snapshot_.objects) {
    switch (object.kind) {
      case Object::Kind::file:
        if (!object.file || is_wanted(snapshot_, *object.file))
          objects_[object.id] = carried_file(object);
        break;
      case Object::Kind::file_pages:
        break;  // when a mapping wants them
      case Object::Kind::sysv_segment:
        objects_[object.id];  // sysv_segments.h
        break;
      default:
        objects_[object.id] = unnamed(object);
    }
  }
}

/// Shared anonymous memory can be made as such when all of it lies where its mappings say, and
/// nothing else does.
std::optional<uint64_t> HostFiles::as_shared_anonymous(const Object& object) const {
  if (object.kind != Object::Kind::shared_anonymous || snapshot_.processes.size() != 1)
    return std::nullopt;
  std::optional<uint64_t> base;
  for (const Mapping& mapping : snapshot_.processes[0].mappings) {
    if (mapping.kind != Mapping::Kind::object || mapping.backing != object.id) continue;
    if (!mapping.shared || mapping.offset > mapping.range.start) return std::nullopt;
    const uint64_t start = mapping.range.start - mapping.offset;
    if (base && *base != start) return std::nullopt;
    base = start;
  }
  if (!base) return std::nullopt;
  const auto whole = Range::sized(*base, (object.size + 4095) & ~uint64_t{4095});
  if (!whole || *base < 65536) return std::nullopt;
  for (const Mapping& mapping : snapshot_.processes[0].mappings) {
    const bool own = mapping.kind == Mapping::Kind::object && mapping.backing == object.id;
    if (own ? !whole->contains(mapping.range) : whole->overlaps(mapping.range)) return std::nullopt;
  }
  for (const Description& description : snapshot_.descriptions) {
    if (description.object == object.id) return std::nullopt;
  }
  return base;
}

namespace {

UniqueFd contents_memfd(const Object& object) {
  std::string name = object.name.substr(object.name.rfind('/') + 1);
  if (name.starts_with("memfd:")) name = name.substr(6);
  unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING;
  if (object.huge_page_size != 0) {
    flags |= MFD_HUGETLB | static_cast<unsigned>(__builtin_ctzll(object.huge_page_size))
                               << MFD_HUGE_SHIFT;
  }
  UniqueFd fd(::memfd_create(name.substr(0, 200).c_str(), flags));
  if (!fd) throw_errno("memfd_create for", object.name);
  return fd;
}

/// Files that O_TMPFILE made are called so by the kernel (fs/dcache.c: d_mark_tmpfile).
bool never_had_name(const Object& object) {
  const std::string name = object.name.substr(object.name.rfind('/') + 1);
  return name.size() > 1 && name[0] == '#' &&
         name.find_first_not_of("0123456789", 1) == std::string::npos;
}

/// With the same name as it had, if that is free; else without. One that never had a name can be
/// given one by linkat(2) still.
UniqueFd deleted_file(const Object& object) {
  if (!object.name.starts_with('/')) return {};
  UniqueFd fd;
  if (never_had_name(object)) {
    fd = try_open(object.name.substr(0, object.name.rfind('/') + 1), O_RDWR | O_TMPFILE, 0600);
    if (fd) return fd;
  }
  fd = try_open(object.name, O_RDWR | O_CREAT | O_EXCL, 0600);
  if (fd) {
    ::unlink(object.name.c_str());
    return fd;
  }
  return try_open(object.name.substr(0, object.name.rfind('/') + 1), O_RDWR | O_TMPFILE, 0600);
}

}  // namespace

bool HostFiles::is_program(const Object& object) const {
  return std::ranges::any_of(snapshot_.processes, [&](const image::Process& process) {
    return process.executable_deleted && process.executable == object.id;
  });
}

HostFiles::Contents HostFiles::unnamed(const Object& object) {
  Contents contents;
  if (const auto base = as_shared_anonymous(object)) {
    contents.sink = {Sink::Kind::memory, -1, *base};
    return contents;
  }
  try {
    if (object.kind == Object::Kind::deleted_file) contents.fd = deleted_file(object);
    struct statvfs mount {};  // what is mounted with noexec can't be the program
    if (contents.fd && is_program(object) && ::fstatvfs(contents.fd.get(), &mount) == 0 &&
        (mount.f_flag & ST_NOEXEC) != 0) {
      contents.fd.reset();
    }
    if (!contents.fd) contents.fd = contents_memfd(object);
    if (::ftruncate(contents.fd.get(), static_cast<off_t>(object.size)) < 0)
      throw_errno("ftruncate", object.name);
    final_modes_.push_back(begin_with_mode(contents.fd.get(), object.mode));
  } catch (const Error& error) {
    findings_.refuse(
        fmt::format("the contents of {} can't be placed here: {}", object.name, error.what()));
  }
  contents.sink = {Sink::Kind::file, contents.fd.get(), 0};
  return contents;
}

/// Whether the image's contents are to be written under the file's name. `exists`: it has another
/// one here, which they replace.
bool HostFiles::may_place(const File& there, bool& exists) {
  UniqueFd here = open_here(there, O_RDONLY);
  if (!here && errno == ENOENT) return true;
  const int reason = errno;
  if (!here) here = try_open(there.path, O_PATH);
  const File found = here ? image::identify(here.get(), there.path) : File{};
  if (here && image::same_inode(there, found, same_boot_)) return false;
  if (image::open_same(there, same_boot_) || options_.changed_files) return false;
  exists = true;
  if (here && !S_ISREG(found.mode)) {
    findings_.refuse(fmt::format("{} is another kind of file here", there.path));
  } else if (!here || (!options_.overwrite_files && reason == EACCES)) {
    findings_.refuse(fmt::format("{} can't be opened here: {}", there.path, std::strerror(reason)));
  } else if (!options_.overwrite_files) {
    findings_.refuse(fmt::format("{} exists here with other contents: {} instead of {}", there.path,
                                 human_bytes(found.size), human_bytes(there.size)),
                     "--overwrite-files replaces it by the image's, --changed-files takes it as it "
                     "is");
  } else {
    return true;
  }
  refused_files_.insert(there.id);
  return false;
}

HostFiles::Contents HostFiles::carried_file(const Object& object) {
  Contents contents;
  const File* there = object.file ? image::find_id(snapshot_.files, *object.file) : nullptr;
  if (there == nullptr) {
    findings_.refuse(fmt::format("the image carries contents of no known file ({})", object.name));
    return contents;
  }
  if (would_break_lease(there->path, O_RDONLY)) {
    refused_files_.insert(there->id);
    return contents;
  }
  bool exists = false;
  if (!may_place(*there, exists)) return contents;
  std::vector<std::string> made;
  const std::string folder = there->path.substr(0, std::max<size_t>(there->path.rfind('/'), 1));
  if (created_.make_directories(folder, &made)) {
    for (const std::string& directory : made) findings_.warn("created directory " + directory);
    if (Contents linked = other_link(*there, exists); linked.fd) return linked;
    contents.fd = created_.create(there->path, exists);
  }
  if (!contents.fd || ::ftruncate(contents.fd.get(), static_cast<off_t>(object.size)) < 0) {
    findings_.refuse(
        fmt::format("{} can't be created here: {}", there->path, std::strerror(errno)));
    refused_files_.insert(there->id);
    return contents;
  }
  final_modes_.push_back(begin_with_mode(contents.fd.get(), there->mode));
  final_modes_.back().mtime_ns = there->mtime_ns;
  contents.sink = {Sink::Kind::file, contents.fd.get(), 0};
  return contents;
}

/// Where the file has another name (link(2)) that is here, or is placed already: `there` becomes
/// one more. Empty if there is none.
HostFiles::Contents HostFiles::other_link(const File& there, bool replace) {
  Contents contents;
  for (const File& other : snapshot_.files) {
    if (other.id == there.id || other.inode != there.inode || other.device != there.device ||
        !S_ISREG(other.mode)) {
      continue;
    }
    const auto carried = carried_files_.find(other.id);
    const auto placed =
        carried == carried_files_.end() ? objects_.end() : objects_.find(carried->second->id);
    UniqueFd fd;
    if (placed != objects_.end() && placed->second.fd) {
      fd = reopen(placed->second.fd.get(), O_RDWR);
    } else if (!leases_.broken_by_open(other.path, O_RDONLY) &&
               image::open_same(other, same_boot_)) {
      fd = open_as_owner(other.path, O_RDWR);
      if (!fd) fd = open_as_owner(other.path, O_RDONLY);
    }
    if (!fd) continue;
    if (created_.link(fd.get(), there.path, replace)) {
      contents.fd = std::move(fd);
      return contents;
    }
  }
  return contents;
}

void HostFiles::let_go() {
  for (auto& [id, contents] : objects_) contents.fd.reset(), contents.read_only.reset();
  for (auto& [id, mapped] : files_) mapped.own.reset(), mapped.writable.reset();
}

Sink HostFiles::sink(uint32_t id) const {
  const auto found = objects_.find(id);
  return found == objects_.end() ? Sink{} : found->second.sink;
}

int HostFiles::contents_of(uint32_t object) const {
  const auto found = objects_.find(object);
  return found == objects_.end() ? -1 : found->second.fd.get();
}

int HostFiles::contents_of(const std::string& path) const {
  for (const auto& [file, object] : carried_files_) {
    if (object->name == path) return contents_of(object->id);
  }
  return -1;
}

}  // namespace rfork::loader
