// ptrace(2) requests as functions: typed, and failing with the request and the tid.
//
// Every one throws ProcessGone when the thread has ended meanwhile (ESRCH), and Error for anything
// else. ptrace knows a tracer by its thread, so all calls for one tracee come from one thread.
#pragma once

#include <sys/types.h>
#include <sys/user.h>

#include <chrono>
#include <cstdint>
#include <optional>
#include <vector>

#include "base/io.h"
#include "image/model.h"
#include "tracer/wait_status.h"

namespace rfork::tracer {

/// PTRACE_SEIZE. Gives errno (0 for success) instead of throwing: why it failed is for the caller
/// to find out.
int try_seize(pid_t tid, unsigned options);
void set_options(pid_t tid, unsigned options);
void interrupt(pid_t tid);
/// PTRACE_CONT, PTRACE_SYSCALL or PTRACE_LISTEN, with a signal to deliver (0: none).
void resume(pid_t tid, int request, int signal = 0);
/// PTRACE_DETACH with a signal to deliver. False when the thread is gone.
bool detach(pid_t tid, int signal = 0) noexcept;
uint64_t event_message(pid_t tid);

user_regs_struct registers(pid_t tid);
void set_registers(pid_t tid, const user_regs_struct& registers);
/// PTRACE_GETREGSET of an NT_* regset, as long as the kernel gives it.
Bytes regset(pid_t tid, unsigned type, const char* name);
uint64_t signal_mask(pid_t tid);
void set_signal_mask(pid_t tid, uint64_t mask);
/// PTRACE_PEEKSIGINFO: the queue of the process (`shared`) or of the thread, in order; nothing is
/// dequeued.
std::vector<image::PendingSignal> pending_signals(pid_t tid, bool shared);
/// PTRACE_GET_RSEQ_CONFIGURATION (Linux 5.13). All zero where the thread has none.
image::Rseq rseq_configuration(pid_t tid);
/// PTRACE_PEEKUSER: a word of struct user.
uint64_t peek_user(pid_t tid, size_t offset);
/// PTRACE_POKEDATA: writes even where the process itself may not (a private copy is made).
void poke(pid_t tid, uint64_t address, uint64_t word);

/// waitpid(tid, __WALL). Throws ProcessGone when there is nothing to wait for.
WaitStatus wait_for(pid_t tid);
/// nullopt when nothing happened within `timeout`.
std::optional<WaitStatus> wait_for(pid_t tid, std::chrono::milliseconds timeout);

}  // namespace rfork::tracer
