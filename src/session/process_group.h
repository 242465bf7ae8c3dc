// What job control asks of a process group, read from outside of its session.
#pragma once

#include <sys/types.h>

namespace rfork::session {

/// SIGTSTP, SIGTTIN, SIGTTOU: the stop signals that a process may catch.
bool is_terminal_stop(int signal);

/// Whether the process is in the foreground of its terminal (tcgetpgrp(3) answers only processes of
/// the same session).
bool in_foreground(pid_t pid);

/// Whether nobody in the session could continue the group of this process: no member has its parent
/// in another group of the session (setpgid(2)). There the kernel ignores a terminal's stop signals
/// that are not caught.
bool in_orphaned_group(pid_t pid);

}  // namespace rfork::session
