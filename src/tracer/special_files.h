// Descriptors behind which there is no file with contents: files of /proc and /sys, names that were
// opened with O_PATH, and kernel objects, which are at least called by their names.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <string>

#include "tracer/inventory.h"

namespace rfork::tracer {

/// A descriptor as /proc shows it.
struct SpecialFd {
  int fd = 0;
  const std::string& path;  ///< without " (deleted)"
  const struct stat& status;
  int32_t flags = 0;        ///< fcntl(F_GETFL)
  const std::string& info;  ///< /proc/PID/fdinfo/N
};

/// True for file systems whose files are a view of the kernel's state, or no files at all.
bool on_kernel_file_system(pid_t pid, int fd);
/// A file of the kernel's that the child can open for itself: the process's own in /proc, what is
/// the whole host's in /proc and /sys, the process's own namespaces. False: it is none, or another
/// process's.
bool describe_kernel_file(pid_t pid, const SpecialFd& open, image::Description& description);
/// A pidfd_open(2) of the process itself, or of its leader.
bool describe_own_pidfd(pid_t pid, const SpecialFd& open, image::Description& description);
/// What was opened with O_PATH and is no regular file or directory. False: it is something else, or
/// its name leads elsewhere by now and it can't be made again (a socket, a device).
bool describe_bare_path(Inventory& inventory, const InventoryInput& input, const SpecialFd& open,
                        image::Description& description);
/// Another name of the file, where the one that it was opened under is gone or another's; empty:
/// none was found.
std::string other_name(const InventoryInput& input, const SpecialFd& open);
/// `the device /dev/sda`, `an io_uring`, `a pidfd of process 4711`: for a sentence.
std::string in_words(pid_t pid, const SpecialFd& open);
/// The same for what maps shows of an anonymous inode (`anon_inode:[io_uring]`).
std::string kernel_object_in_words(const std::string& link);

}  // namespace rfork::tracer
