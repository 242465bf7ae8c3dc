// Files of /proc and /sys: those of the process are the process's own again, those of the host the
// host's; pidfds of the process itself.
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <atomic>
#include <cstdlib>

#include "target.h"

namespace {

std::string contents(int fd) {
  std::string text(1 << 16, 0);
  ssize_t size, total = 0;
  while ((size = pread(fd, text.data() + total, text.size() - static_cast<size_t>(total), total)) >
         0)
    total += size;
  EXPECT(size == 0);
  text.resize(static_cast<size_t>(total));
  return text;
}

long field(const std::string& text, const char* key) {
  const size_t at = text.find(key);
  EXPECT(at != std::string::npos);
  return std::strtol(text.c_str() + at + std::strlen(key), nullptr, 10);
}

int open_pidfd(unsigned flags) {
  return static_cast<int>(syscall(SYS_pidfd_open, getpid(), flags));
}

void check_pidfd(int fd) {
  const std::string info = target::read_file(("/proc/self/fdinfo/" + std::to_string(fd)).c_str());
  EXPECT_EQ(field(info, "Pid:"), getpid());
  MUST(syscall(SYS_pidfd_send_signal, fd, 0, nullptr, 0));
}

std::atomic<pid_t> other_thread{0};
std::atomic<bool> released{false};

void* run_other(void*) {
  other_thread = gettid();
  while (!released) usleep(1000);
  char name[16];
  MUST(prctl(PR_GET_NAME, name));
  EXPECT_TEXT(name, "from afar");
  other_thread = gettid();
  return nullptr;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string own = "/proc/" + std::to_string(getpid());
  const int status = MUST(open((own + "/status").c_str(), O_RDONLY | O_CLOEXEC));
  const int maps = MUST(open("/proc/self/maps", O_RDONLY));
  const int comm =
      MUST(open((own + "/task/" + std::to_string(getpid()) + "/comm").c_str(), O_RDWR));
  const int memory = MUST(open("/proc/self/mem", O_RDWR));
  const int fds = MUST(open("/proc/self/fd", O_RDONLY | O_DIRECTORY));
  const int folder = MUST(open("/proc/self", O_PATH | O_DIRECTORY));
  const int host = MUST(open("/proc/stat", O_RDONLY));
  const int network = MUST(open("/proc/net/dev", O_RDONLY));
  const int kernel = open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY);
  const int uts = MUST(open("/proc/self/ns/uts", O_RDONLY));
  char head[10];
  EXPECT_EQ(read(maps, head, sizeof head), sizeof head);
  const int pidfd = MUST(open_pidfd(O_NONBLOCK));
  const int same = MUST(fcntl(pidfd, F_DUPFD, 500));
  const int of_thread = open_pidfd(O_EXCL);  // PIDFD_THREAD, since Linux 6.9
  static volatile int in_memory = 1;
  pthread_t other;
  EXPECT_EQ(pthread_create(&other, nullptr, run_other, nullptr), 0);
  while (other_thread == 0) usleep(1000);
  const std::string of_other = "/proc/self/task/" + std::to_string(other_thread);
  const int other_name = MUST(open((of_other + "/comm").c_str(), O_RDWR));
  const int again = MUST(dup(other_name));
  const int other_folder = MUST(open(of_other.c_str(), O_RDONLY | O_DIRECTORY));

  target::ready();
  target::wait_for_go();

  EXPECT_EQ(field(contents(status), "Pid:"), getpid());
  EXPECT_EQ(fcntl(status, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(lseek(maps, 0, SEEK_CUR), sizeof head);
  EXPECT(contents(maps).find("[stack]") != std::string::npos);
  EXPECT_EQ(write(comm, "renamed", 7), 7);
  EXPECT(target::status_line("Name").find("renamed") != std::string::npos);
  const int two = 2;
  EXPECT_EQ(pwrite(memory, &two, sizeof two, reinterpret_cast<off_t>(&in_memory)), sizeof two);
  EXPECT_EQ(in_memory, 2);
  bool listed = false;
  DIR* const stream = fdopendir(fds);
  while (const dirent* entry = readdir(stream)) listed = listed || std::atoi(entry->d_name) == same;
  EXPECT(listed);
  const int stat = MUST(openat(folder, "stat", O_RDONLY));
  EXPECT_EQ(std::atoi(contents(stat).c_str()), getpid());
  EXPECT(contents(host).find("cpu") == 0);
  EXPECT(contents(network).find("lo:") != std::string::npos);
  if (kernel >= 0) EXPECT(contents(kernel).find('[') != std::string::npos);
  char link[64], linked[64];
  const ssize_t size = MUST(readlink("/proc/self/ns/uts", link, sizeof link));
  EXPECT_EQ(readlink(("/proc/self/fd/" + std::to_string(uts)).c_str(), linked, sizeof linked),
            size);
  EXPECT(std::memcmp(link, linked, static_cast<size_t>(size)) == 0);
  check_pidfd(pidfd);
  check_pidfd(same);
  EXPECT_EQ(fcntl(pidfd, F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(same, F_GETFD), 0);
  EXPECT_EQ(fcntl(same, F_GETFL) & O_NONBLOCK, O_NONBLOCK);
  if (of_thread >= 0) check_pidfd(of_thread);
  EXPECT_EQ(write(again, "from afar", 9), 9);
  EXPECT_EQ(fcntl(other_name, F_GETFD), 0);
  const int other_status = MUST(openat(other_folder, "status", O_RDONLY));
  const long number = field(contents(other_status), "Pid:");
  released = true;
  EXPECT_EQ(pthread_join(other, nullptr), 0);
  EXPECT_EQ(number, other_thread);
  target::finish();
}
