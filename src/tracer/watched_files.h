// What instances of inotify(7) and groups of fanotify(7) have in common: their fdinfo names what
// they watch by inode, which the image needs a path for, and what nobody has read stays with them.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tracer/inventory.h"
#include "tracer/path_search.h"

namespace rfork::tracer {

/// One instance or group among the process's descriptors.
struct WatcherFd {
  int fd = 0;
  uint32_t description = 0;
  std::string info;  ///< /proc/PID/fdinfo/N
};

/// A number of a line of fdinfo, of which all are hexadecimal; nullopt: the line has none.
std::optional<uint64_t> hex_field(std::string_view line, std::string_view name);
/// The device of the kernel's own number for it (MKDEV of <linux/kdev_t.h>).
uint64_t device_of(uint64_t kernel_number);
/// What `ino`, `sdev` and `f_handle` of a line say (Documentation/filesystems/proc.rst).
std::optional<WantedInode> wanted_inode(std::string_view line);

/// What leads to a watched file.
struct NamedFile {
  std::optional<uint32_t> object;  ///< it is deleted, and its contents travel
  FoundName found;                 ///< else
};
/// In the order of `files`; nullopt where no name can be found.
std::vector<std::optional<NamedFile>> name_files(const Inventory& inventory,
                                                 const InventoryInput& input,
                                                 const std::vector<WantedInode>& files);
/// Notes it in an InotifyWatch or FanotifyMark.
void set_file(auto& watch, const NamedFile& named) {
  watch.object = named.object;
  watch.path = named.found.path;
  watch.change_time_ns = named.found.change_time_ns;
}

image::Description& description_of(Inventory& inventory, const WatcherFd& watcher);
uint64_t unread_bytes(pid_t pid, int fd);
/// "descriptor 7 is WHAT", with the way to do without it.
void refuse_watcher(Inventory& inventory, int fd, const std::string& what);
/// `inode 7 of device 8:1`.
std::string in_words(const WantedInode& file);

}  // namespace rfork::tracer
