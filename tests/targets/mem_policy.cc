// NUMA memory policies: of threads (set_mempolicy) and of memory (mbind), with their flags.
#include <pthread.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "target.h"

namespace {

using target::kPage;

constexpr unsigned long kMostNodes = 1024;
constexpr int kDefault = 0, kPreferred = 1, kBind = 2, kInterleave = 3, kLocal = 4;
constexpr int kRelative = 1 << 14, kStatic = 1 << 15;
constexpr unsigned long kOfAddress = 2;

struct Policy {
  int mode;
  unsigned long nodes;
};

/// Of the calling thread, or of the memory at `address`.
Policy policy_of(const void* address = nullptr) {
  unsigned long nodes[kMostNodes / 64]{};
  Policy policy{-1, 0};
  MUST(syscall(SYS_get_mempolicy, &policy.mode, nodes, kMostNodes, address,
               address == nullptr ? 0 : kOfAddress));
  policy.nodes = nodes[0];
  return policy;
}

void expect_policy(const char* what, Policy got, Policy want) {
  if (got.mode != want.mode || got.nodes != want.nodes) {
    target::fail("the policy of %s is %#x with nodes %#lx, not %#x with %#lx", what, got.mode,
                 got.nodes, want.mode, want.nodes);
  }
}

void set_thread(Policy policy) {
  MUST(syscall(SYS_set_mempolicy, policy.mode, policy.nodes == 0 ? nullptr : &policy.nodes, 64));
}

void set_memory(void* start, size_t size, Policy policy) {
  MUST(syscall(SYS_mbind, start, size, policy.mode, policy.nodes == 0 ? nullptr : &policy.nodes, 64,
               0));
}

constexpr Policy kOfLeader{kBind, 1}, kOfSecond{kInterleave | kStatic, 1}, kOfThird{kDefault, 0};

pthread_barrier_t set;

void* second(void*) {
  set_thread(kOfSecond);
  pthread_barrier_wait(&set);
  target::wait_for_go();
  expect_policy("the second thread", policy_of(), kOfSecond);
  return nullptr;
}

/// Has been started before the leader has a policy, which it would have inherited.
void* third(void*) {
  target::wait_for_go();
  expect_policy("the third thread", policy_of(), kOfThird);
  return nullptr;
}

struct Memory {
  static constexpr size_t kPages = 16;
  char* own = static_cast<char*>(
      target::map(kPages * kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));
  char* shared = static_cast<char*>(
      target::map(4 * kPage, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS));
  char* not_forked =
      static_cast<char*>(target::map(kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS));

  Memory() {
    set_memory(own, 2 * kPage, {kBind, 1});
    set_memory(own + 4 * kPage, kPage, {kPreferred | kStatic, 1});
    set_memory(own + 6 * kPage, kPage, {kInterleave | kRelative, 1});
    set_memory(own + 8 * kPage, kPage, {kLocal, 0});
    set_memory(shared + kPage, 2 * kPage, {kInterleave, 1});
    target::fill(own, kPages * kPage, 1);
    target::fill(shared, 4 * kPage, 2);
  }

  void not_in_a_fork() {
    set_memory(not_forked, kPage, {kPreferred, 1});
    MUST(madvise(not_forked, kPage, MADV_DONTFORK));
    target::fill(not_forked, kPage, 3);
  }

  void check(bool left_out) {
    target::expect_filled("memory with policies", own, kPages * kPage, 1);
    target::expect_filled("shared memory with a policy", shared, 4 * kPage, 2);
    expect_policy("bound memory", policy_of(own), {kBind, 1});
    expect_policy("bound memory's end", policy_of(own + 2 * kPage - 1), {kBind, 1});
    expect_policy("what follows it", policy_of(own + 2 * kPage), {kDefault, 0});
    expect_policy("preferred", policy_of(own + 4 * kPage), {kPreferred | kStatic, 1});
    expect_policy("interleaved", policy_of(own + 6 * kPage), {kInterleave | kRelative, 1});
    expect_policy("local", policy_of(own + 8 * kPage), {kLocal, 0});
    expect_policy("shared memory", policy_of(shared), {kDefault, 0});
    expect_policy("interleaved shared memory", policy_of(shared + kPage), {kInterleave, 1});
    if (left_out) expect_policy("what no fork has", policy_of(not_forked), {kPreferred, 1});
    set_memory(own, kPages * kPage, {kDefault, 0});
    expect_policy("what was reset", policy_of(own), {kDefault, 0});
  }
};

}  // namespace

/// More than rfork asks for one by one.
void map_many() {
  constexpr size_t kMany = 600;
  char* const start =
      static_cast<char*>(target::map(2 * kMany * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS));
  for (size_t i = 0; i < kMany; ++i) MUST(mprotect(start + 2 * i * kPage, kPage, PROT_READ));
}

/// `mem_policy FOLDER leader`: with a policy of the leader's, and memory that no fork has.
/// `mem_policy FOLDER many`: with many mappings.
int main(int argc, char** argv) {
  target::begin(argc, argv);
  const bool all = argc > 2 && argv[2] == std::string("leader");
  if (argc > 2 && !all) map_many();
  int mode;
  if (syscall(SYS_get_mempolicy, &mode, nullptr, 0, nullptr, 0) != 0)
    target::skip("NUMA memory policies can't be had: %s", std::strerror(errno));
  pthread_barrier_init(&set, nullptr, 2);
  pthread_t threads[2];
  pthread_create(&threads[0], nullptr, second, nullptr);
  pthread_create(&threads[1], nullptr, third, nullptr);
  Memory memory;
  if (all) {
    memory.not_in_a_fork();
    set_thread(kOfLeader);
  }

  pthread_barrier_wait(&set);
  target::ready();
  target::wait_for_go();

  expect_policy("the leader", policy_of(), all ? kOfLeader : Policy{kDefault, 0});
  memory.check(all);
  for (const pthread_t thread : threads) pthread_join(thread, nullptr);
  target::finish();
}
