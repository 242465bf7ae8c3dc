#include "tracer/inventory.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/sysmacros.h>

#include <algorithm>

#include "base/io.h"
#include "image/files.h"

namespace rfork::tracer {

namespace {

// A digest is only worth its time where there is no build-id; contents of larger files simply
// travel.
constexpr uint64_t kDigestLimit = 256u << 20;

bool unchanged(const image::File& before, const struct stat& now, const std::string& path) {
  return before.path == path && before.device == now.st_dev && before.inode == now.st_ino &&
         before.size == static_cast<uint64_t>(now.st_size) &&
         before.mtime_ns == now.st_mtim.tv_sec * 1'000'000'000 + now.st_mtim.tv_nsec;
}

// Takes over what is known of the file, so that the frozen process doesn't wait for build-ids and
// digests to be read.
std::optional<image::File> known_before(const Inventory* earlier, const struct stat& now,
                                        const std::string& path) {
  if (earlier == nullptr) return std::nullopt;
  for (const image::File& before : earlier->files) {
    if (unchanged(before, now, path)) return before;
  }
  return std::nullopt;
}

void add_executable(Inventory& inventory, const InventoryInput& input) {
  const std::string link = fmt::format("/proc/{}/exe", input.pid);
  std::string path = try_read_link(link).value_or("");
  UniqueFd fd = try_open(link, O_RDONLY);
  if (!fd) fd = try_open(link, O_PATH);
  struct stat status {};
  if (!fd || ::fstat(fd.get(), &status) != 0) throw_errno("open", link);
  constexpr std::string_view kDeleted = " (deleted)";
  if (status.st_nlink != 0 && !path.ends_with(kDeleted)) {
    inventory.executable = add_file(inventory, input.earlier, fd.get(), path);
    inventory.mapped_files.insert(inventory.executable);
    return;
  }
  if (path.ends_with(kDeleted)) path.resize(path.size() - kDeleted.size());
  image::Object object;
  object.kind =
      path.starts_with("/memfd:") ? image::Object::Kind::memfd : image::Object::Kind::deleted_file;
  object.name = path;
  object.size = static_cast<uint64_t>(status.st_size);
  object.mode = status.st_mode & 07777;
  inventory.executable_deleted = true;
  inventory.executable = add_object(inventory, object, status.st_dev, status.st_ino, std::move(fd));
}

}  // namespace

UniqueFd open_in_process(pid_t pid, const std::string& path, int flags) {
  return try_open(fmt::format("/proc/{}/root{}", pid, path), flags);
}

uint32_t add_file(Inventory& inventory, const Inventory* earlier, int fd, const std::string& path) {
  struct stat status {};
  if (::fstat(fd, &status) != 0) throw_errno("fstat", path);
  for (const image::File& file : inventory.files) {
    if (file.device == status.st_dev && file.inode == status.st_ino && file.path == path)
      return file.id;
  }
  const auto id = static_cast<uint32_t>(inventory.files.size() + 1);
  image::File file;
  if (const auto known = known_before(earlier, status, path)) {
    file = *known;
  } else {
    file = image::identify(fd, path);
    // O_PATH descriptors (of programs that may be run but not read) have no contents to digest.
    const bool readable = (::fcntl(fd, F_GETFL) & O_PATH) == 0;
    const bool worth_it = earlier == nullptr && file.build_id.empty() && file.size <= kDigestLimit;
    if (readable && worth_it) file.digest = image::content_digest(fd);
  }
  file.id = id;
  inventory.files.push_back(file);
  return file.id;
}

uint32_t add_object(Inventory& inventory, image::Object object, uint64_t device, uint64_t inode,
                    UniqueFd fd) {
  // What a descriptor says of the size is right; a mapping may reach beyond the end.
  struct stat status {};
  const bool exact = fd && ::fstat(fd.get(), &status) == 0;
  if (exact) object.size = static_cast<uint64_t>(status.st_size);
  for (auto& [id, source] : inventory.object_sources) {
    if (source.device != device || source.inode != inode) continue;
    image::Object& known =
        *std::find_if(inventory.objects.begin(), inventory.objects.end(),
                      [id = id](const image::Object& candidate) { return candidate.id == id; });
    if (!source.fd) known.size = exact ? object.size : std::max(known.size, object.size);
    if (exact) known.mode = status.st_mode & 07777;  // who only maps it may not know
    known.seals |= object.seals;
    known.huge_page_size = std::max(known.huge_page_size, object.huge_page_size);
    if (!source.fd) source.fd = std::move(fd);
    return id;
  }
  object.id = static_cast<uint32_t>(inventory.objects.size() + 1);
  inventory.objects.push_back(object);
  inventory.object_sources[object.id] = {std::move(fd), device, inode};
  return object.id;
}

Inventory take_inventory(const InventoryInput& input) {
  Inventory inventory;
  inventory.smaps = input.smaps;
  add_executable(inventory, input);
  add_mappings(inventory, input);
  add_descriptors(inventory, input);
  return inventory;
}

}  // namespace rfork::tracer
