// Makes the process that becomes the child, in the namespaces and with the pid that were chosen for
// it.
//
//   no namespaces      caller ── clone3 ──▶ child
//   time namespace     caller ── clone3 ──▶ helper ── clone3(CLONE_PARENT) ──▶ child      the
//   helper ends pid namespace      caller ── clone3 ──▶ init ── clone3 ──▶ child the init stays
//
// A process enters a time namespace only by being born into it, so one more process is needed for
// that; CLONE_PARENT makes the child a child of the caller all the same. The init reaps orphans,
// forwards signals, and ends as the child ends.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "loader/identity.h"
#include "loader/plan_writer.h"

namespace rfork::loader {

/// Everything about the process that is to be made.
struct SpawnRequest {
  Place place;
  pid_t pid = 0;  ///< wanted, when place.keep_ids
  bool new_session = true;
  int stub_helper = 0;  ///< index in `helpers` of what is executed; index 0 is the control socket
  int control_fd = -1;  ///< where a failure before the stub is reported
  int plan_number = 0;  ///< number of the plan's descriptor in the child
  const HelperFds* helpers = nullptr;
  std::optional<int> oom_score_adj;
  std::optional<uint32_t> dump_filter;  ///< /proc/PID/coredump_filter
};

struct Spawned {
  pid_t wait_pid = 0;  ///< child of the caller: the child, or its init
  bool has_init = false;
  bool drop_capabilities =
      false;          ///< the child holds capabilities only for the sake of the restore
  UniqueFd end_pipe;  ///< the init writes the child's wait status here
};

/// What couldn't be done, for the choice of another place.
struct SpawnFailure {
  int64_t step = 0;
  int error = 0;
};

/// Never throws after a process was made; on failure nothing is left. `failure` says why the result
/// is empty.
std::optional<Spawned> spawn(const SpawnRequest& request, SpawnFailure* failure);

/// Becomes the stub. In the new process, after all else; never returns. Only system calls: no
/// allocation.
[[noreturn]] void become_stub(const SpawnRequest& request, bool raise_ambient,
                              const char* plan_argument, const char* oom_text,
                              const char* dump_filter);

/// The life of a pid namespace's init. Ends as the child ended. Only system calls.
[[noreturn]] void live_as_init(pid_t child, int end_pipe);

}  // namespace rfork::loader
