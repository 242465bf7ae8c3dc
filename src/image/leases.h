// Leases of files (fcntl(2), F_SETLEASE): to open a file under somebody's lease makes the kernel
// ask its holder to give it up, and waits for that. Who only wants to look at a file must know
// before.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace rfork::image {

class Leases {
 public:
  /// Those that /proc/locks shows now: of processes that are seen from here. Reading that file
  /// takes the kernel 10 to 20 ms (it waits for an RCU grace period), so only who has to does.
  static Leases of_this_host();
  /// From the text of that file. Lines of another form are skipped.
  explicit Leases(std::string_view text);

  /// Who holds the lease that open(2) with `flags` would break; 0: a process that has ended.
  std::optional<pid_t> broken_by_open(dev_t device, ino_t inode, int flags) const;
  std::optional<pid_t> broken_by_open(const std::string& path, int flags) const;

 private:
  struct Lease {
    dev_t device;
    ino_t inode;
    bool write;
    pid_t holder;
  };
  std::vector<Lease> leases_;
};

}  // namespace rfork::image
