#include "session/file_check.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/io.h"
#include "image/files.h"
#include "image/leases.h"

namespace rfork::session {

namespace {

/// A process may map more files than the usual soft limit of descriptors.
void raise_descriptor_limit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)setrlimit(RLIMIT_NOFILE, &limit);
}

enum class Here { absent, same, other, leased };

Here look_for(const image::File& there, bool same_boot, const image::Leases& leases) {
  // A path of the client's may name a device or a FIFO here, and opening those has effects.
  struct stat facts {};
  if (::stat(there.path.c_str(), &facts) != 0) return Here::absent;
  if (!S_ISREG(facts.st_mode)) return Here::other;
  if (leases.broken_by_open(facts.st_dev, facts.st_ino, O_RDONLY)) return Here::leased;
  const UniqueFd fd = try_open(there.path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!fd) return Here::absent;  // the restore finds out, with the rights that it has then
  const image::File here = image::identify(fd.get(), there.path);
  const bool same = image::same_inode(there, here, same_boot) || image::open_same(there, same_boot);
  return same ? Here::same : Here::other;
}

}  // namespace

std::map<uint32_t, int> PresentFiles::by_id(const std::vector<image::File>& files) const {
  std::map<uint32_t, int> descriptors;
  for (const image::File& file : files) {
    const auto found = mapped.find(file.path);
    if (found == mapped.end()) continue;
    // The file may have been replaced at the origin between the offer and the freeze.
    const image::File& agreed = found->second.there;
    const bool same = agreed.size == file.size && agreed.device == file.device &&
                      agreed.inode == file.inode && agreed.mtime_ns == file.mtime_ns;
    if (same) descriptors.emplace(file.id, found->second.fd.get());
  }
  return descriptors;
}

PresentFiles check_files(const Offer& offer, bool same_boot, std::vector<Reason>& reasons) {
  raise_descriptor_limit();
  PresentFiles present;
  const auto leases = offer.leases ? image::Leases::of_this_host() : image::Leases("");
  for (const image::File& file : offer.mapped_files) {
    if (present.mapped.contains(file.path)) continue;
    if (leases.broken_by_open(file.path, O_RDONLY)) continue;
    UniqueFd fd = image::open_same(file, same_boot);
    if (!fd) continue;
    present.paths.insert(file.path);
    present.mapped.emplace(file.path, PresentFiles::Mapped{file, std::move(fd)});
  }
  for (const image::File& file : offer.open_files) {
    const Here here = look_for(file, same_boot, leases);
    if (here == Here::same || (here == Here::other && offer.changed_files))
      present.paths.insert(file.path);
    if (here == Here::leased) {
      reasons.push_back(
          {file.path +
               " is under a lease of another process there (fcntl(2), F_SETLEASE), which to "
               "open it would break",
           "end that process, or go on without the file with --drop-fd N"});
    }
    if (here == Here::other && !offer.overwrite_files && !offer.changed_files) {
      reasons.push_back(
          {file.path + " exists there with other contents",
           "--overwrite-files replaces it by the origin's, --changed-files takes it as it is"});
    }
  }
  return present;
}

}  // namespace rfork::session
