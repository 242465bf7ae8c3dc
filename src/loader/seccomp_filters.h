// Seccomp filters (seccomp(2)): each thread installs its own as the very last, when it has left the
// restore behind. What it does after the first of them is in place is what they permit: to install
// the next one, and rt_sigreturn. So the code that does it can't lie in the hole, and it stays,
// with the filters, in the small mapping of frames that stay.
//
// Rejected: to install them earlier and to suspend them by ptrace meanwhile. The loader needs no
// ptrace, and there would be a moment in which the program runs without its filters.
#pragma once

#include <cstdint>
#include <vector>

#include "base/io.h"
#include "image/model.h"
#include "loader/findings.h"

namespace rfork::loader {

/// What a system call gets under a filter, as SECCOMP_RET_* with its data. `data` is a
/// struct seccomp_data. Kills what can't be evaluated.
uint32_t evaluate_filter(const Bytes& program, const Bytes& data);

/// Refuses threads whose filters would not let them be installed again.
void check_seccomp(const image::Process& process, Findings& findings);

/// Whether the thread leaves by code of its own.
bool has_seccomp(const image::Thread& thread);
/// The exit code (see vdso_x86_64.h) of such a thread for the address `place`, with its filters.
/// Of the same size wherever it lies.
Bytes seccomp_exit_code(const image::Process& process, const image::Thread& thread, uint64_t place);

}  // namespace rfork::loader
