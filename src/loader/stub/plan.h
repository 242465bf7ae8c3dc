// The plan: what the loader tells the stub, and what the two say to each other while it is walked.
//
// A plan is one memfd, mapped shared by both sides: a header, a table of operations, and a data
// area. Every pointer in it is an absolute address of the child, because the loader decides where
// the plan will lie there (the "hole"). The stub is an interpreter of a few kinds of operation and
// decides nothing; the loader keeps a sentence for every operation, so that "operation 17, errno
// 12" becomes a line that a person understands.
//
// Rejected: a structured description that the stub interprets (mappings, threads, ...). It would
// put the thinking into the one program that has no libc, no sanitizer and no debugger.
//
// This header is the ABI between the two: <stdint.h> and nothing else.
#pragma once

#include <stdint.h>

namespace rfork::loader::plan {

inline constexpr uint64_t kMagic = 0x6e616c706b726672;  // "rfrkplan"
inline constexpr uint32_t kSlots = 8;
inline constexpr uint64_t kSlotSize = 256 * 1024;
inline constexpr uint64_t kRingSize = kSlots * kSlotSize;
inline constexpr uint64_t kStackSize = 16 * 1024;  // of each thread while it walks its operations

enum class OpKind : uint16_t {
  syscall,         // number, arguments[0..5]; judged by `rule`
  data_to_memory,  // [0] address, [1] bytes, of the stream; [2] 1: pages that aren't there yet, of
                   // private anonymous memory
  data_to_file,    // [0] descriptor, [1] offset, [2] bytes, of the stream
  data_skip,       // [0] bytes, of the stream
  copy,            // [0] destination, [1] source, [2] bytes
  replace_tid,     // [0] address of a 32-bit tid: the old one [1] becomes the caller's own
  robust_list,     // [0] head: owners that are the old tid [1] become the caller's own
  open,            // [0] path, [1] flags, [2] descriptor that it is to have, [3] O_CLOEXEC or 0
  await_plan,      // waits until the loader has written the rest of the plan
  start_thread,    // [0] stack end, [1] first operation, [2] operations, [3] address of a tid to
                   // have, or 0
  gather_threads,  // waits until [0] threads stand at the gate
  arrive,          // a thread: says that it is ready, and waits at the gate
  ready,           // the leader: says READY, waits for GO, says RUNNING
  open_gate,       // the leader: lets all threads leave
  await_left,      // waits until at most [0] threads have not left
  leave,           // [0] rsp, [1] address of the exit code; does not come back
  as_owner,  // [0] stack end, [1] first operation, [2] operations: walked by a process that shares
             // the memory and owns a user namespace; failure is ignored
  start_placing,  // from here on pages that aren't there are made of the stream's bytes, by
                  // userfaultfd(2); failure is ignored
  end_placing,
  use_amx,       // makes the kernel give this thread room for AMX tiles
  note_tid,      // [0] address where the caller's tid is written
  make_timer,    // [0] address of a Timer: timer_create until it has its id
  start_timer,   // [0] address of a Timer that is made
  make_segment,  // [0] address of a Segment: shmget until it has its id
  set_owner,     // [0] descriptor, [1] F_OWNER_*, [2] address of a tid; or 0: the process, or
                 // its group
};

/// A timer of timer_create(2) as it is to be.
struct Timer {
  int32_t id;
  int32_t clock;
  uint64_t clock_tid;   // address of the tid whose CPU time it counts, or 0
  uint64_t notify_tid;  // address of the tid that gets its signal, or 0
  struct Event {        // struct sigevent
    uint64_t value;
    int32_t signal, notify, tid, unused[11];
  } event;
  int64_t value_ns, interval_ns;
  int32_t overrun;  // of a signal that the process has taken already; 0: none to be made up
  int32_t pending;  // its signal is in the queue
};
static_assert(sizeof(Timer::Event) == 64);

/// A segment of shmget(2) as it is to be. What was made is removed again unless the child runs.
struct Segment {
  uint64_t next_id;  // path of the file that takes the id that the next one gets; 0: any id will do
  uint64_t id_text;  // what is to be written there
  uint64_t id_text_size;
  uint64_t size;
  uint32_t uid, gid;  // effective ones of who is to have made it
  int32_t id;         // wanted
  int32_t key;
  int32_t flags;          // of shmget(2)
  volatile int32_t made;  // its id; -1: it isn't made yet, or was there before
};

enum class Rule : uint8_t {
  exact,         // the result must be `expected`
  non_negative,  // anything that is no error
  ignore,        // nobody minds
};

struct Op {
  OpKind kind;
  Rule rule;
  uint8_t own_tid;  // bit N: argument N is replaced by the caller's tid
  uint8_t own_pid;  // bit N: argument N is replaced by the pid
  uint8_t pointed;  // bit N: argument N is the address of an int32_t that is given in its place
  uint8_t unused[2];
  uint64_t number;
  uint64_t arguments[6];
  int64_t expected;
};
static_assert(sizeof(Op) == 72);

// The hole, from low to high:
//   plan | stub text | ring | parked vvar and vDSO | stacks
struct Header {
  uint64_t magic;
  uint64_t hole_start, hole_end;
  uint64_t address_limit;  // first address past what the stub may have mapped
  uint64_t plan_size;      // at hole_start
  uint64_t text_address, text_offset, text_size;  // in the hole; in the plan's file; bytes
  uint64_t ring_address;
  uint64_t stacks_address, stacks_size;
  uint64_t stack_end;  // the leader's
  // The kernel's own special mappings. All parts lie at a fixed distance from the vDSO's start.
  uint64_t special_count;
  struct Special {
    int64_t from_vdso;  // bytes from the start of the vDSO; negative for vvar
    uint64_t size;
    uint64_t parked;  // address in the hole
  } special[4];
  uint64_t ops;          // address of the table
  uint64_t first_count;  // operations in the first part; the rest is told when it is known
  int32_t control_fd, ring_fd;
  // Written by the stub, read by the loader when the child is lost.
  volatile uint32_t current_op;
  // Where threads meet.
  volatile uint32_t arrived;
  volatile uint32_t gate;
  volatile uint32_t leaving;  // threads that have not left the hole; the last one unmaps it
  uint64_t own_pid;
  uint64_t segments, segment_count;  // address of the first Segment, which follow one another
};

enum class MessageKind : uint32_t {
  // loader to stub
  data = 1,  // slot, length
  more,      // operations [index, index + length) are to be walked next
  go,
  // stub to loader
  hello,      // the stub has its hole
  slot_free,  // slot
  failed,     // index of the operation (or a negative Step), error: errno, tid
  ready,
  running,
};

struct Message {
  MessageKind kind;
  uint32_t slot;
  int64_t index;
  uint64_t length;
  int32_t error;
  int32_t tid;
};
static_assert(sizeof(Message) == 32);

// What can fail before the first operation, as Message::index.
enum Step : int64_t {
  kStepNamespaces = -1,
  kStepClone = -2,
  kStepDescriptors = -3,
  kStepExec = -4,
  kStepMapPlan = -5,
  kStepMapText = -6,
  kStepMapRing = -7,
  kStepMapStacks = -8,
  kStepPark = -9,
  kStepUnmap = -10,
  kStepTimeOffsets = -11,
};

}  // namespace rfork::loader::plan
