// What a process is, as plain data: no libelf, no JSON, no ptrace.
//
// The tracer fills these structs, the format writes and reads them, the loader turns them into a
// process. Things that are shared between processes or descriptors (files, contents, open file
// descriptions) have ids and stand beside the processes, never inside one: two descriptors of one
// description name the same id, and so would two processes.
//
// Addresses are the traced process's. Times are nanoseconds. Flags are the kernel's own values
// (O_*, PROT_*, SA_*), all of x86-64 Linux.
#pragma once

#include <sys/types.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/io.h"
#include "base/range.h"
#include "image/description.h"

namespace rfork::image {

/// One component of the XSAVE area in the standard (non-compacted) format: CPUID leaf 0xD.
struct XstateComponent {
  uint32_t index = 0;   ///< bit in XCR0
  uint32_t offset = 0;  ///< bytes from the start of the area; differs between CPU makers
  uint32_t size = 0;    ///< bytes
};

/// The facts of a host that decide whether a process of one can go on on another.
struct Host {
  std::string name;          ///< uname nodename
  std::string architecture;  ///< "x86_64"
  std::string kernel;        ///< uname release
  std::string boot_id;  ///< /proc/sys/kernel/random/boot_id: equal means the same running kernel
  uint64_t page_size = 0;
  uint64_t address_limit = 0;             ///< first address past user space (47 or 56 bits)
  std::vector<std::string> cpu_features;  ///< instruction-set extensions a program can use, sorted
  std::vector<std::string> cpu_hints;   ///< flags that only tell of speed: never a reason to refuse
  uint64_t xcr0 = 0;                    ///< XSAVE components that the kernel enables
  std::vector<XstateComponent> xstate;  ///< layout of those beyond x87 and SSE
  std::vector<std::string> abilities;   ///< kernel abilities by name, sorted: see host.h
};

/// A named file on disk, by what identifies it.
struct File {
  uint32_t id = 0;
  std::string path;  ///< absolute, as the process sees it
  uint64_t size = 0;
  uint32_t mode = 0;    ///< st_mode
  uint64_t device = 0;  ///< st_dev; comparable only under the same boot id
  uint64_t inode = 0;
  int64_t mtime_ns = 0;
  int64_t btime_ns = 0;  ///< birth time, 0 where the file system has none
  std::string build_id;  ///< hexadecimal, of an ELF file that has one; else empty
  std::string digest;    ///< XXH3-128 of the contents in hexadecimal where computed; else empty
  bool operator==(const File&) const = default;
};

/// A segment of shmget(2), as /proc/sysvipc/shm of its IPC namespace has it.
struct SysvSegment {
  int32_t id = 0;             ///< shmid
  int32_t key = 0;            ///< 0: IPC_PRIVATE
  uint64_t size = 0;          ///< bytes that were asked for
  uint32_t mode = 0;          ///< permissions
  uint32_t uid = 0, gid = 0;  ///< owner
  uint32_t creator_uid = 0, creator_gid = 0;
  int32_t creator = 0;         ///< pid of who made it, for rfork-trace
  int64_t changed_s = 0;       ///< shm_ctime
  bool removed = false;        ///< SHM_DEST: it goes when nobody has it attached any more
  bool locked = false;         ///< SHM_LOCK
  uint64_t ipc_namespace = 0;  ///< inode of the IPC namespace; comparable only under the same boot
  bool operator==(const SysvSegment&) const = default;
};

/// Contents that travel because no file on the destination holds them.
struct Object {
  enum class Kind : uint8_t {
    shared_anonymous,  ///< MAP_SHARED|MAP_ANONYMOUS, and /dev/zero mapped shared
    memfd,
    deleted_file,  ///< an open or mapped file with no name left
    file,          ///< a named regular file (`file`), whole, that the destination lacks
    file_pages,    ///< only the mapped ranges of a named file (`file`): clean pages of a program or
                   ///< library
    sysv_segment,  ///< `segment`, up to the end of its last page
  };
  uint32_t id = 0;
  Kind kind = Kind::shared_anonymous;
  std::string name;  ///< as /proc/PID/maps shows it, without " (deleted)"
  uint64_t size = 0;
  uint32_t mode = 0600;
  uint32_t seals = 0;           ///< F_SEAL_* of a memfd
  uint64_t huge_page_size = 0;  ///< of a hugetlb memfd; 0 else
  std::optional<uint32_t> file;
  std::optional<SysvSegment> segment;
};

/// One VMA.
struct Mapping {
  enum class Kind : uint8_t {
    anonymous,  ///< private anonymous, heap and stacks too
    file,       ///< backing is a File id
    object,     ///< backing is an Object id
    vdso,       ///< the kernel's code pages; contents are carried, for comparison
    vvar,       ///< the kernel's data pages beside it; never carried
  };
  /// madvise and mlock state, from VmFlags in smaps.
  enum Advice : uint32_t {
    dont_fork = 1u << 0,
    wipe_on_fork = 1u << 1,
    dont_dump = 1u << 2,
    huge_page = 1u << 3,
    no_huge_page = 1u << 4,
    mergeable = 1u << 5,
    sequential = 1u << 6,
    random = 1u << 7,
    locked = 1u << 8,
    lock_on_fault = 1u << 9,
    droppable = 1u << 10,  ///< MAP_DROPPABLE: the kernel may empty it, and it travels empty
  };
  Range range;
  uint32_t protection = 0;  ///< PROT_*
  bool shared = false;
  bool grows_down = false;
  bool no_reserve = false;
  uint64_t huge_page_size = 0;  ///< of a hugetlb mapping; 0 else
  uint32_t advice = 0;          ///< Advice bits
  Kind kind = Kind::anonymous;
  uint32_t backing = 0;  ///< File or Object id
  uint64_t offset = 0;   ///< into the backing, bytes
  std::string name;      ///< what maps shows: a path, "[heap]", "[stack]", "[anon:NAME]", or empty
  /// Whether the process ever had (or may get) write access: VM_MAYWRITE. A shared file mapping of
  /// a descriptor opened read-only has not.
  bool may_write = true;
  std::vector<Range> guards;   ///< guard regions within it (MADV_GUARD_INSTALL), in order
  int32_t protection_key = 0;  ///< as pkey_mprotect(2); 0: none
  bool sealed = false;         ///< by mseal(2)
};

struct AltStack {
  uint64_t address = 0;
  int32_t flags = 2;  ///< SS_DISABLE, SS_ONSTACK, SS_AUTODISARM
  uint64_t size = 0;
};

struct Rseq {
  uint64_t address = 0;  ///< 0: not registered
  uint32_t size = 0;
  uint32_t signature = 0;
  uint32_t flags = 0;
};

/// sched_setattr(2), but for the nice value.
struct Scheduling {
  int32_t policy = 0;     ///< SCHED_*
  uint64_t flags = 0;     ///< SCHED_FLAG_*
  uint32_t priority = 0;  ///< of SCHED_FIFO and SCHED_RR
  uint64_t runtime_ns = 0, deadline_ns = 0,
           period_ns = 0;  ///< of SCHED_DEADLINE; `runtime_ns` of SCHED_OTHER, too
};

/// Where memory is to come from: set_mempolicy(2), mbind(2).
struct MemoryPolicy {
  int32_t mode = 0;             ///< MPOL_*, with its flags MPOL_F_*
  std::vector<uint32_t> nodes;  ///< of NUMA
  bool operator==(const MemoryPolicy&) const = default;
};

/// A policy of its own for some memory of a process.
struct RangePolicy {
  Range range;
  MemoryPolicy policy;
};

/// What one thread has set with prctl(2), and what it would be asked there. 0: as a new program has
/// it.
struct ThreadSettings {
  uint64_t timer_slack_ns = 0;
  int32_t parent_death_signal = 0;
  int32_t time_stamp_counter = 0;  ///< PR_TSC_*
  int32_t store_bypass = 0;        ///< PR_SPEC_* of PR_SPEC_STORE_BYPASS
  int32_t indirect_branch = 0;     ///< of PR_SPEC_INDIRECT_BRANCH
  int32_t memory_failure = 0;      ///< PR_MCE_KILL_EARLY + 1, PR_MCE_KILL_LATE + 1
};

/// A queued signal: the kernel's siginfo_t, 128 bytes.
using PendingSignal = std::array<std::byte, 128>;

struct Credentials {
  uint32_t uid = 0, euid = 0, suid = 0, fsuid = 0;
  uint32_t gid = 0, egid = 0, sgid = 0, fsgid = 0;
  std::vector<uint32_t> groups;
  std::string user;  ///< name of euid at the origin; may be empty
  uint64_t cap_inheritable = 0, cap_permitted = 0, cap_effective = 0, cap_bounding = 0,
           cap_ambient = 0;
  uint32_t securebits = 0;  ///< SECBIT_*
};

struct Thread {
  int32_t tid = 0;
  std::string name;  ///< comm
  Bytes registers;   ///< struct user_regs_struct: as they are to be when the thread runs again (a
                     ///< system call that was interrupted is already wound back)
  Bytes floating_point;  ///< struct user_fpregs_struct (FXSAVE)
  Bytes xstate;          ///< whole XSAVE area in the origin's layout (Host::xstate)
  uint64_t signal_mask = 0;
  AltStack alt_stack;
  uint64_t robust_list = 0;
  uint64_t robust_list_size = 0;
  Rseq rseq;
  uint64_t clear_child_tid = 0;  ///< as set_tid_address(2)
  std::vector<PendingSignal> pending;
  int32_t nice = 0;
  bool waits = false;  ///< it was in a blocking system call, which its registers make again
  Scheduling scheduling;
  std::vector<uint32_t> cpus;  ///< that it may run on; empty: on all
  int32_t io_priority = 0;     ///< ioprio_get(2); 0: follows the nice value
  MemoryPolicy memory_policy;
  ThreadSettings settings;
  std::optional<Credentials> credentials;  ///< where they differ from the process's
  std::optional<bool> no_new_privs;        ///< where it differs from the process's
  int32_t seccomp_mode = 0;                ///< SECCOMP_MODE_*
  std::vector<uint32_t> seccomp_filters;   ///< indices into Process::seccomp_filters, oldest first
};

/// Bytes that the loader writes into memory last, after the page data. Used where a system call's
/// argument in memory had to change (the rest of a time-out).
struct MemoryPatch {
  uint64_t address = 0;
  Bytes bytes;
};

struct SignalAction {
  int32_t signal = 0;
  uint64_t handler = 0;  ///< SIG_DFL 0, SIG_IGN 1
  uint64_t flags = 0;    ///< SA_*, SA_RESTORER included
  uint64_t restorer = 0;
  uint64_t mask = 0;
};

/// setitimer(2); index is ITIMER_REAL, ITIMER_VIRTUAL, ITIMER_PROF.
struct IntervalTimer {
  int64_t value_us = 0;  ///< time left; 0: disarmed
  int64_t interval_us = 0;
};

/// timer_create(2).
struct PosixTimer {
  int32_t id = 0;
  int32_t clock = 0;  ///< CLOCK_*; negative: a CPU clock as the kernel numbers those of "this"
                      ///< process or thread
  int32_t clock_thread = 0;  ///< whose CPU time it is; 0: the process's
  int32_t notify = 0;        ///< SIGEV_*
  int32_t signal = 0;
  uint64_t value = 0;    ///< sigev_value
  int32_t thread = 0;    ///< of SIGEV_THREAD_ID; 0: it has ended
  int64_t value_ns = 0;  ///< time left; 0: disarmed
  int64_t interval_ns = 0;
  int32_t overrun = 0;  ///< timer_getoverrun(2)
};

/// A seccomp filter, which threads may share.
struct SeccompFilter {
  Bytes program;     ///< struct sock_filter each
  bool log = false;  ///< SECCOMP_FILTER_FLAG_LOG
};

/// What a process has set with prctl(2) or in /proc for all of its threads.
struct ProcessSettings {
  bool child_subreaper = false;
  uint32_t no_huge_pages = 0;              ///< PR_GET_THP_DISABLE
  uint32_t memory_deny_write_execute = 0;  ///< PR_GET_MDWE: PR_MDWE_*
  bool merge_memory = false;               ///< PR_GET_MEMORY_MERGE
  std::optional<uint32_t> dump_filter;     ///< /proc/PID/coredump_filter
  uint32_t membarrier = 0;                 ///< MEMBARRIER_CMD_REGISTER_*
};

struct Limit {
  uint64_t soft = 0;  ///< RLIM_INFINITY is all ones
  uint64_t hard = 0;
};

/// Addresses that the kernel keeps of a process's layout (prctl(PR_SET_MM_MAP)).
struct MemoryLayout {
  uint64_t start_code = 0, end_code = 0;
  uint64_t start_data = 0, end_data = 0;
  uint64_t start_brk = 0, brk = 0;
  uint64_t start_stack = 0;
  uint64_t arg_start = 0, arg_end = 0;
  uint64_t env_start = 0, env_end = 0;
};

struct Process {
  int32_t pid = 0, ppid = 0, pgid = 0, sid = 0;
  std::string name;                       ///< comm of the thread-group leader
  std::vector<std::string> command_line;  ///< for people; the process's own copy is in its memory
  uint32_t executable = 0;                ///< File id, or an Object id when executable_deleted
  bool executable_deleted = false;
  std::string cwd;
  bool cwd_removed = false;  ///< it has no name any more
  std::string root;
  uint32_t umask = 022;
  uint64_t personality = 0;
  bool dumpable = true;
  bool no_new_privs = false;
  int32_t oom_score_adj = 0;
  int64_t start_time_ns = 0;  ///< CLOCK_BOOTTIME of the origin
  int32_t stop_signal = 0;    ///< group-stopped by this signal; 0: not stopped
  Credentials credentials;
  std::array<Limit, 16> limits{};  ///< by RLIMIT_*
  std::array<IntervalTimer, 3> timers{};
  MemoryLayout layout;
  Bytes auxv;
  std::vector<SignalAction> actions;   ///< all 64, in order
  std::vector<PendingSignal> pending;  ///< process-directed
  std::vector<Thread> threads;         ///< the thread-group leader first
  std::vector<Mapping> mappings;       ///< by address, not overlapping
  std::vector<Descriptor> descriptors;
  std::vector<MemoryPatch> patches;
  uint32_t protection_keys = 0;          ///< bits of those that pkey_alloc(2) has given
  uint32_t lock_future = 0;              ///< MCL_* of mlockall(2) for mappings to come
  std::vector<PosixTimer> posix_timers;  ///< by id
  ProcessSettings settings;
  std::vector<SeccompFilter> seccomp_filters;
  std::vector<RangePolicy> memory_policies;  ///< by address, each within a mapping
};

/// A process on the origin's host that has the sockets of a moved process which are `kept`, until
/// they are taken on: connection_holder.h.
struct ConnectionHolder {
  std::string name;  ///< of its unix socket, in the abstract namespace, without the leading zero
  int32_t pid = 0;   ///< as the origin's rfork-trace saw it: for a person
  uint64_t network_namespace = 0;  ///< inode of the one in which the name is known
};

/// A snapshot without its pages.
struct Snapshot {
  Host host;
  int64_t realtime_ns = 0, monotonic_ns = 0,
          boottime_ns = 0;  ///< clocks of the process when it was frozen
  bool moved = false;       ///< the original ends when this is complete
  bool thin = false;        ///< clean pages and contents of named files were left out
  /// What needs a privilege that the restorer lacks may stay as it is there.
  bool drop_attributes = false;
  std::optional<ConnectionHolder> holder;
  std::vector<File> files;
  std::vector<Object> objects;
  std::vector<Description> descriptions;
  std::vector<Process> processes;
};

/// A run of carried bytes, in the order of the stream. Page-aligned and non-empty; a run of an
/// object may end off a page at the object's end, the stream then has zeros up to the page.
struct DataRun {
  enum class Target : uint8_t {
    memory,  ///< `range` are addresses in process number `owner`
    object,  ///< `range` are offsets in Object `owner`
  };
  Target target = Target::memory;
  uint32_t owner = 0;  ///< index into Snapshot::processes, or Object id
  Range range;
  bool operator==(const DataRun&) const = default;
};

/// The element of `items` with that id, or nullptr. Ids count up from 1, some are left out, and no
/// reader of an image relies on that.
template <typename T>
const T* find_id(const std::vector<T>& items, uint32_t id) {
  for (size_t i = std::min<size_t>(id, items.size()); i > 0 && items[i - 1].id >= id; --i) {
    if (items[i - 1].id == id) return &items[i - 1];
  }
  for (const T& item : items) {
    if (item.id == id) return &item;
  }
  return nullptr;
}

}  // namespace rfork::image
