// SysV shared memory: private, with a key, read-only, smaller than a page, attached twice or in
// parts, removed while it is attached; with its ids.
#include <sys/mman.h>
#include <sys/shm.h>
#include <unistd.h>

#include "target.h"

namespace {

using target::kPage;

char* attach(int id, int flags = 0, const void* at = nullptr) {
  void* const start = shmat(id, at, flags);
  if (reinterpret_cast<intptr_t>(start) == -1) target::fail("shmat: %s", std::strerror(errno));
  return static_cast<char*>(start);
}

shmid_ds state_of(int id) {
  shmid_ds state{};
  MUST(shmctl(id, IPC_STAT, &state));
  return state;
}

void expect_state(int id, key_t key, size_t size, unsigned mode, unsigned attached) {
  const shmid_ds state = state_of(id);
  EXPECT_EQ(state.shm_perm.__key, key);
  EXPECT_EQ(state.shm_segsz, size);
  EXPECT_EQ(state.shm_perm.mode & 07777, mode);
  EXPECT_EQ(state.shm_perm.uid, geteuid());
  EXPECT_EQ(state.shm_perm.gid, getegid());
  EXPECT_EQ(state.shm_nattch, attached);
  // Whoever goes on is who made it, but for a moved one that has the original's.
  EXPECT(state.shm_cpid == getpid() || state.shm_cpid == 0);
}

void expect_gone(int id) {
  shmid_ds state{};
  EXPECT_EQ(shmctl(id, IPC_STAT, &state), -1);
  EXPECT_EQ(errno, EINVAL);
}

/// Attached twice for writing and once for reading.
struct Private {
  static constexpr size_t kSize = 3 * kPage;
  int id = MUST(shmget(IPC_PRIVATE, kSize, IPC_CREAT | 0600));
  char* first = attach(id);
  char* second = attach(id);
  char* reader = attach(id, SHM_RDONLY);

  Private() {
    target::fill(first, kSize, 1);
    MUST(mprotect(second, kPage, PROT_NONE));
  }

  void check() {
    expect_state(id, IPC_PRIVATE, kSize, 0600, 4);  // mprotect(2) has split one
    target::expect_filled("private", first, kSize, 1);
    target::expect_filled("private, to read", reader, kSize, 1);
    EXPECT_TEXT(target::smaps_field(second, "VmFlags").substr(0, 2), "sh");
    MUST(mprotect(second, kPage, PROT_READ | PROT_WRITE));
    second[5] = 'x';
    EXPECT_EQ(first[5], 'x');
    EXPECT_EQ(reader[5], 'x');
    EXPECT_EQ(mprotect(reader, kPage, PROT_READ | PROT_WRITE), -1);
    EXPECT_EQ(errno, EACCES);
    MUST(shmdt(second));
    EXPECT_EQ(state_of(id).shm_nattch, 2);
    MUST(shmdt(reader));
    char* const again = attach(id, SHM_REMAP, first);
    EXPECT_EQ(again - first, 0);
    EXPECT_EQ(first[5], 'x');
    MUST(shmctl(id, IPC_RMID, nullptr));
    EXPECT_EQ(state_of(id).shm_perm.mode & SHM_DEST, SHM_DEST);
    MUST(shmdt(first));
    expect_gone(id);
  }
};

/// Others can find it by its key. Its page is there as a whole.
struct Keyed {
  static constexpr size_t kSize = 100;
  key_t key = 0x52460000 + getpid() % 0x10000;
  int id = MUST(shmget(key, kSize, IPC_CREAT | IPC_EXCL | 0640));
  char* start = attach(id);

  Keyed() { target::fill(start, kPage, 2); }

  void check() {
    expect_state(id, key, kSize, 0640, 1);
    EXPECT_EQ(MUST(shmget(key, 0, 0)), id);
    EXPECT_EQ(shmget(key, kPage + 1, 0), -1);
    target::expect_filled("with a key", start, kPage, 2);
    MUST(shmdt(start));
    EXPECT_EQ(state_of(id).shm_nattch, 0);
    start = attach(id);
    target::expect_filled("with a key, again", start, kPage, 2);
    MUST(shmdt(start));
    MUST(shmctl(id, IPC_RMID, nullptr));
    expect_gone(id);
  }
};

struct Removed {
  int id = MUST(shmget(IPC_PRIVATE, 2 * kPage, IPC_CREAT | 0600));
  char* start = attach(id);

  Removed() {
    target::fill(start, kPage, 3);
    MUST(shmctl(id, IPC_RMID, nullptr));
  }

  void check() {
    expect_state(id, IPC_PRIVATE, 2 * kPage, SHM_DEST | 0600, 1);
    target::expect_filled("removed", start, kPage, 3);
    target::expect_zero("removed, not touched", start + kPage, kPage);
    start[kPage] = 1;
    MUST(shmdt(start));
    expect_gone(id);
  }
};

/// May only be read, also by who owns it.
struct ReadOnly {
  int id = MUST(shmget(IPC_PRIVATE, kPage, IPC_CREAT | 0600));
  char* start = nullptr;

  ReadOnly() {
    char* const filling = attach(id);
    target::fill(filling, kPage, 4);
    MUST(shmdt(filling));
    shmid_ds state = state_of(id);
    state.shm_perm.mode = 0400;
    MUST(shmctl(id, IPC_SET, &state));
    start = attach(id, SHM_RDONLY);
  }

  void check() {
    expect_state(id, IPC_PRIVATE, kPage, 0400, 1);
    target::expect_filled("read-only", start, kPage, 4);
    MUST(shmdt(start));
    MUST(shmctl(id, IPC_RMID, nullptr));
    expect_gone(id);
  }
};

/// Unmapped in the middle, and moved at its end: what no mapping shows is there too.
struct Parts {
  static constexpr size_t kPages = 8;
  int id = MUST(shmget(IPC_PRIVATE, kPages* kPage, IPC_CREAT | 0600));
  char* start = attach(id);
  char* other = nullptr;
  char* moved = nullptr;

  Parts() {
    target::fill(start, kPages * kPage, 5);
    MUST(munmap(start + 2 * kPage, 3 * kPage));
    // Something else is where the segment was.
    other = static_cast<char*>(target::map(kPage, PROT_READ | PROT_WRITE,
                                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0,
                                           start + 3 * kPage));
    target::fill(other, kPage, 6);
    void* const room = target::map(kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS);
    moved = static_cast<char*>(
        mremap(start + 7 * kPage, kPage, kPage, MREMAP_MAYMOVE | MREMAP_FIXED, room));
    EXPECT(moved == room);
  }

  void check() {
    expect_state(id, IPC_PRIVATE, kPages * kPage, 0600, 3);
    char* const all = attach(id, SHM_RDONLY);
    target::expect_filled("all of what is attached in parts", all, kPages * kPage, 5);
    EXPECT_EQ(std::memcmp(start, all, 2 * kPage), 0);
    EXPECT_EQ(std::memcmp(start + 5 * kPage, all + 5 * kPage, 2 * kPage), 0);
    target::expect_filled("what lies in the gap", other, kPage, 6);
    moved[1] = 'y';
    EXPECT_EQ(all[7 * kPage + 1], 'y');
    MUST(shmdt(all));
    MUST(shmdt(start));  // both parts of that attachment
    EXPECT_EQ(state_of(id).shm_nattch, 1);
    MUST(munmap(moved, kPage));
    MUST(shmctl(id, IPC_RMID, nullptr));
    expect_gone(id);
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Private of_its_own;
  Keyed keyed;
  Removed removed;
  ReadOnly read_only;
  Parts parts;

  target::ready();
  target::wait_for_go();

  of_its_own.check();
  keyed.check();
  removed.check();
  read_only.check();
  parts.check();
  target::finish();
}
