// The stub: the program that becomes the restored process.
//
// First half (in the freshly exec'd address space): map the plan at its hole, map the own text
// there a second time, and jump. Second half (in the hole): park the kernel's vDSO, unmap
// everything else, walk the operations. It has no libc, no writable globals and no relocations,
// because its memory is thrown away around it; the build checks that (check_stub.cmake).
//
// Rejected: doing the same by ptrace from outside (restore must work where ptrace is forbidden),
// and staying in the exec'd address space (its brk, stack and text would be where the image's
// belong).
#include <errno.h>
#include <linux/futex.h>
#include <linux/mman.h>
#include <linux/sched.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/syscall.h>

#include "plan.h"
#include "segments.h"
#include "stream.h"
#include "syscall_x86_64.h"
#include "talk.h"
#include "thread_ids.h"
#include "timers.h"

namespace rfork::stub {

using namespace loader::plan;  // NOLINT: the stub is nothing but this ABI

namespace {

constexpr uint64_t kProtRead = 1, kProtWrite = 2, kProtExec = 4;
constexpr uint64_t kMapShared = 1, kMapPrivate = 2, kMapAnonymous = 0x20, kMapFixed = 0x100000;
constexpr uint64_t kRemapMayMove = 1, kRemapFixed = 2;
constexpr int kAtSysinfoEhdr = 33;

/// The parameters of one walk over operations.
struct Walker {
  Header* header;
  Stream stream{};
};

void wait_futex(volatile uint32_t* word, uint32_t value) {
  system_call(SYS_futex, reinterpret_cast<uint64_t>(word), FUTEX_WAIT, value);
}

void wake_futex(volatile uint32_t* word) {
  system_call(SYS_futex, reinterpret_cast<uint64_t>(word), FUTEX_WAKE, INT32_MAX);
}

// --- operations ---

void walk(Walker& walker, uint64_t first, uint64_t count);

void thread_entry(void* header, uint64_t first, uint64_t count) {
  Walker walker{static_cast<Header*>(header)};
  walk(walker, first, count);
  end_process();
}

long start_thread(Header* header, const Op& op) {
  clone_args args{};
  args.flags = CLONE_VM | CLONE_FS | CLONE_FILES | CLONE_SIGHAND | CLONE_THREAD | CLONE_SYSVSEM;
  args.stack = op.arguments[0] - kStackSize;
  args.stack_size = kStackSize;
  args.set_tid = op.arguments[3];
  args.set_tid_size = op.arguments[3] != 0 ? 1 : 0;
  const long tid =
      rfork_stub_clone3(&args, sizeof args, thread_entry, header, op.arguments[1], op.arguments[2]);
  if (tid != -ENOSYS || args.set_tid != 0) return tid;
  return rfork_stub_clone(args.flags, op.arguments[0], thread_entry, header, op.arguments[1],
                          op.arguments[2]);
}

void owner_entry(void* header, uint64_t first, uint64_t count) {
  Walker walker{static_cast<Header*>(header)};
  walk(walker, first, count);
  for (;;) system_call(SYS_exit, 0);
}

/// What the kernel keeps of the memory (the exe link) can be set by any task that has this memory
/// and is privileged in its own user namespace. So one is made for the purpose, and ends before the
/// next operation.
void walk_as_owner(Header* header, const Op& op) {
  clone_args args{};
  args.flags = CLONE_VM | CLONE_VFORK | CLONE_FILES | CLONE_NEWUSER;
  args.stack = op.arguments[0] - kStackSize;
  args.stack_size = kStackSize;
  const long pid =
      rfork_stub_clone3(&args, sizeof args, owner_entry, header, op.arguments[1], op.arguments[2]);
  constexpr uint64_t kWaitAll = 0x40000000;  // __WALL: it has no exit signal
  if (pid > 0) system_call(SYS_wait4, static_cast<uint64_t>(pid), 0, kWaitAll);
}

long open_at(const Op& op) {
  const long fd =
      system_call(SYS_openat, static_cast<uint64_t>(-100), op.arguments[0], op.arguments[1]);
  if (fd < 0 || static_cast<uint64_t>(fd) == op.arguments[2]) return fd;
  const long moved =
      system_call(SYS_dup3, static_cast<uint64_t>(fd), op.arguments[2], op.arguments[3]);
  system_call(SYS_close, static_cast<uint64_t>(fd));
  return moved;
}

long do_syscall(Header* header, const Op& op) {
  uint64_t a[6];
  for (int i = 0; i < 6; ++i) {
    a[i] = op.arguments[i];
    if ((op.own_tid & (1u << i)) != 0) a[i] = static_cast<uint64_t>(system_call(SYS_gettid));
    if ((op.own_pid & (1u << i)) != 0) a[i] = header->own_pid;
    if ((op.pointed & (1u << i)) != 0) {
      a[i] = static_cast<uint64_t>(int64_t{*reinterpret_cast<const volatile int32_t*>(a[i])});
    }
  }
  const long result = system_call(static_cast<long>(op.number), a[0], a[1], a[2], a[3], a[4], a[5]);
  if (op.rule == Rule::ignore) return 0;
  if (op.rule == Rule::exact && result != op.expected) return result < 0 ? result : -EEXIST;
  return result;
}

void arrive(Header* header) {
  __atomic_add_fetch(&header->arrived, 1, __ATOMIC_SEQ_CST);
  wake_futex(&header->arrived);
  while (__atomic_load_n(&header->gate, __ATOMIC_SEQ_CST) == 0) wait_futex(&header->gate, 0);
}

void gather_threads(Header* header, uint32_t count) {
  for (;;) {
    const uint32_t arrived = __atomic_load_n(&header->arrived, __ATOMIC_SEQ_CST);
    if (arrived >= count) return;
    wait_futex(&header->arrived, arrived);
  }
}

/// A thread is on its way into the kernel when it has left: it is given a little longer.
void await_left(Header* header, uint32_t count) {
  struct {
    int64_t seconds, nanoseconds;
  } constexpr kMoment = {0, 50'000};
  do {
    system_call(SYS_nanosleep, reinterpret_cast<uint64_t>(&kMoment), 0);
  } while (__atomic_load_n(&header->leaving, __ATOMIC_SEQ_CST) > count);
}

void say_ready(Header* header) {
  send_message(header, MessageKind::ready, 0, 0, 0);
  if (receive(header).kind != MessageKind::go) end_process(header);
  send_message(header, MessageKind::running, 0, 0, 0);
}

/// Operations of one step; 0 or more, or -errno.
long step(Walker& walker, const Op& op) {
  Header* header = walker.header;
  const uint64_t* a = op.arguments;
  switch (op.kind) {
    case OpKind::syscall:
      return do_syscall(header, op);
    case OpKind::data_to_memory:
      return data_to_memory(header, walker.stream, a[0], a[1], a[2] != 0);
    case OpKind::data_to_file:
      return data_to_file(header, walker.stream, a[0], a[1], a[2]);
    case OpKind::data_skip:
      data_skip(header, walker.stream, a[0]);
      return 0;
    case OpKind::copy:
      copy_bytes(a[0], a[1], a[2]);
      return 0;
    case OpKind::replace_tid:
      replace_tid(a[0], static_cast<uint32_t>(a[1]));
      return 0;
    case OpKind::robust_list:
      replace_robust_owners(a[0], static_cast<uint32_t>(a[1]));
      return 0;
    case OpKind::open:
      return open_at(op);
    case OpKind::await_plan: {
      const Message message = receive(header);
      if (message.kind != MessageKind::more) return -EPROTO;
      walk(walker, static_cast<uint64_t>(message.index), message.length);
      return 0;
    }
    case OpKind::start_thread:
      return start_thread(header, op);
    case OpKind::gather_threads:
      gather_threads(header, static_cast<uint32_t>(a[0]));
      return 0;
    case OpKind::arrive:
      arrive(header);
      return 0;
    case OpKind::ready:
      say_ready(header);
      return 0;
    case OpKind::open_gate:
      __atomic_store_n(&header->gate, 1, __ATOMIC_SEQ_CST);
      wake_futex(&header->gate);
      return 0;
    case OpKind::await_left:
      await_left(header, static_cast<uint32_t>(a[0]));
      return 0;
    case OpKind::leave:
      rfork_stub_leave(a[0], &header->leaving, header->hole_start,
                       header->hole_end - header->hole_start, a[1]);
    case OpKind::as_owner:
      walk_as_owner(header, op);
      return 0;
    case OpKind::start_placing:
      start_placing(walker.stream);
      return 0;
    case OpKind::end_placing:
      end_placing(walker.stream);
      return 0;
    case OpKind::use_amx:
      rfork_stub_use_amx();
      return 0;
    case OpKind::note_tid:
      note_tid(a[0]);
      return 0;
    case OpKind::make_timer:
      return make_timer(*reinterpret_cast<const Timer*>(a[0]));
    case OpKind::make_segment:
      return make_segment(*reinterpret_cast<Segment*>(a[0]));
    case OpKind::set_owner:
      return set_owner(a[0], a[1], a[2], header->own_pid);
    case OpKind::start_timer:
      return start_timer(*reinterpret_cast<const Timer*>(a[0]));
  }
  return -ENOSYS;
}

void walk(Walker& walker, uint64_t first, uint64_t count) {
  Header* header = walker.header;
  const Op* ops = reinterpret_cast<const Op*>(header->ops);
  for (uint64_t i = first; i < first + count; ++i) {
    header->current_op = static_cast<uint32_t>(i);
    const long result = step(walker, ops[i]);
    if (result < 0) fail(header, static_cast<int64_t>(i), result);
  }
}

// --- getting into the hole ---

uint64_t map_at(uint64_t address, uint64_t size, uint64_t protection, uint64_t flags, int fd,
                uint64_t offset) {
  return static_cast<uint64_t>(system_call(SYS_mmap, address, size, protection, flags | kMapFixed,
                                           static_cast<uint64_t>(fd), offset));
}

/// Moves the kernel's vDSO and vvar out of the way, then unmaps all that is not the hole.
void clear_address_space(Header* header, uint64_t vdso) {
  for (uint64_t i = 0; i < header->special_count; ++i) {
    const Header::Special& special = header->special[i];
    const long moved =
        system_call(SYS_mremap, vdso + static_cast<uint64_t>(special.from_vdso), special.size,
                    special.size, kRemapMayMove | kRemapFixed, special.parked);
    if (static_cast<uint64_t>(moved) != special.parked) fail(header, kStepPark, moved);
  }
  long result = system_call(SYS_munmap, 0, header->hole_start);
  if (result == 0) {
    result = system_call(SYS_munmap, header->hole_end, header->address_limit - header->hole_end);
  }
  if (result != 0) fail(header, kStepUnmap, result);
}

/// Runs in the hole.
void second_half(Header* header, uint64_t vdso) {
  header->own_pid = static_cast<uint64_t>(system_call(SYS_getpid));
  clear_address_space(header, vdso);
  send_message(header, MessageKind::hello, 0, 0, 0);
  Walker walker{header};
  walk(walker, 0, header->first_count);
  end_process();
}

/// Decimal digits; the loader wrote them.
int parse_number(const char* text) {
  int number = 0;
  for (; *text >= '0' && *text <= '9'; ++text) number = number * 10 + (*text - '0');
  return number;
}

uint64_t find_vdso(uint64_t* stack) {
  uint64_t* at = stack + 1 + stack[0] + 1;  // past argc, argv and its null
  while (*at != 0) ++at;                    // past the environment
  for (++at; *at != 0; at += 2) {
    if (*at == kAtSysinfoEhdr) return at[1];
  }
  return 0;
}

/// Maps what the hole is made of; the header is a first mapping of the plan's first page.
Header* map_hole(Header* header, int plan_fd) {
  const uint64_t start = header->hole_start;
  uint64_t at = map_at(start, header->plan_size, kProtRead | kProtWrite, kMapShared, plan_fd, 0);
  if (at != start) fail(header, kStepMapPlan, static_cast<long>(at));
  header = reinterpret_cast<Header*>(start);
  at = map_at(header->text_address, header->text_size, kProtRead | kProtExec, kMapPrivate, plan_fd,
              header->text_offset);
  if (at != header->text_address) fail(header, kStepMapText, static_cast<long>(at));
  at = map_at(header->ring_address, kRingSize, kProtRead, kMapShared, header->ring_fd, 0);
  if (at != header->ring_address) fail(header, kStepMapRing, static_cast<long>(at));
  at = map_at(header->stacks_address, header->stacks_size, kProtRead | kProtWrite,
              kMapPrivate | kMapAnonymous, -1, 0);
  if (at != header->stacks_address) fail(header, kStepMapStacks, static_cast<long>(at));
  return header;
}

}  // namespace

}  // namespace rfork::stub

extern "C" {

extern const char rfork_stub_text_start[] __attribute__((visibility("hidden")));

/// From _start, with the initial stack: argv[1] is the number of the plan's descriptor.
[[noreturn]] __attribute__((visibility("hidden"), used)) void rfork_stub_main(uint64_t* stack) {
  using namespace rfork::stub;  // NOLINT
  if (stack[0] < 2) end_process();
  const int plan_fd = parse_number(reinterpret_cast<const char*>(stack[2]));
  const long first = system_call(SYS_mmap, 0, kPage, kProtRead | kProtWrite, kMapShared,
                                 static_cast<uint64_t>(plan_fd), 0);
  if (first < 0 && first > -4096) end_process();
  Header* header = reinterpret_cast<Header*>(first);
  if (header->magic != kMagic) end_process();
  const uint64_t vdso = find_vdso(stack);
  if (vdso == 0) fail(header, kStepPark, -ENOENT);
  header = map_hole(header, plan_fd);
  const uint64_t here = reinterpret_cast<uint64_t>(rfork_stub_text_start);
  const uint64_t there = header->text_address + (reinterpret_cast<uint64_t>(&second_half) - here);
  rfork_stub_jump(header->stack_end, header, vdso, there);
}

// The compiler may emit calls of these even in freestanding code.
__attribute__((visibility("hidden"), used)) void* memcpy(void* to, const void* from, size_t size) {
  void* result = to;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(size) : : "memory");
  return result;
}

__attribute__((visibility("hidden"), used)) void* memset(void* to, int value, size_t size) {
  void* result = to;
  __asm__ volatile("rep stosb" : "+D"(to), "+c"(size) : "a"(value) : "memory");
  return result;
}
}
