// The life of a commit keeper: commit_keeper.h.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <functional>
#include <string>

#include "base/unique_fd.h"
#include "session/offer.h"

namespace rfork::session {

inline constexpr size_t kMoveIdSize = 32;

struct KeptCommit {
  UniqueFd line;  ///< to rfork-trace; its end means that rfork-trace is gone
  std::function<Resolution(const std::string& move_id)> ask;
  std::function<std::string(pid_t original, const std::string& move_id)> how_to_decide;
};

void keep_commit(KeptCommit commit);

/// For the person who has to decide: what process `keeper` does meanwhile.
std::string silence_advice(pid_t keeper);

}  // namespace rfork::session
