// Which of an offer's files this host has.
#pragma once

#include <map>
#include <set>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "image/model.h"
#include "session/offer.h"

namespace rfork::session {

/// The files that need not travel.
struct PresentFiles {
  std::set<std::string> paths;
  /// Open descriptors of the mapped ones, read-only, with the facts that the client gave.
  struct Mapped {
    image::File there;
    UniqueFd fd;
  };
  std::map<std::string, Mapped> mapped;

  /// The descriptors by the ids that `files` (an image's) give to the same files. Borrowed.
  std::map<uint32_t, int> by_id(const std::vector<image::File>& files) const;
};

/// Looks for every file of `offer`, as whoever this process is at the moment. `same_boot`: client
/// and daemon run under one kernel, so that inode numbers can be compared. An open file that would
/// have to be replaced, and may not be, becomes one of `reasons`: the restore would refuse it too,
/// but only after the process was frozen.
PresentFiles check_files(const Offer& offer, bool same_boot, std::vector<Reason>& reasons);

}  // namespace rfork::session
