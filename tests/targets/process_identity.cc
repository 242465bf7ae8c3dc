// What a process can read of itself: command line, environment, auxiliary vector, executable, the
// addresses in /proc/self/stat, command name, start of its world.
#include <elf.h>
#include <fcntl.h>
#include <sys/auxv.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <sstream>
#include <vector>

#include "target.h"

extern char** environ;

namespace {

std::string link_of(const char* path) {
  char text[4096];
  const ssize_t length = MUST(readlink(path, text, sizeof text));
  return std::string(text, length);
}

// Fields 26-28 and 45-51 of /proc/self/stat: where code, data, heap, arguments and environment are.
std::string addresses() {
  const std::string stat = target::read_file("/proc/self/stat");
  std::istringstream words(stat.substr(stat.rfind(')') + 2));
  std::string word, all;
  for (int field = 3; words >> word; ++field) {
    if ((field >= 26 && field <= 28) || (field >= 45 && field <= 51)) all += word + " ";
  }
  return all;
}

constexpr int kRan = 42;

// Goes on as a copy of this program, which is removed then, as one is that was upgraded.
void run_as_deleted(char** argv) {
  const std::string copy = target::path("program");
  if (argv[0] == copy) {
    MUST(unlink(copy.c_str()));
    return;
  }
  const int from = MUST(open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
  const int to = MUST(open(copy.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0755));
  struct stat status;
  MUST(fstat(from, &status));
  for (off_t left = status.st_size; left > 0;) left -= MUST(sendfile(to, from, nullptr, left));
  MUST(close(to));
  argv[0] = strdup(copy.c_str());
  MUST(execv(copy.c_str(), argv));
}

// A program that executes itself again gets what it is.
void check_runs() {
  const pid_t child = MUST(fork());
  if (child == 0) {
    execl("/proc/self/exe", "run", nullptr);
    _exit(errno);
  }
  int status = 0;
  MUST(waitpid(child, &status, 0));
  EXPECT_EQ(WEXITSTATUS(status), kRan);
}

}  // namespace

int main(int argc, char** argv) {
  if (argc == 1 && std::strcmp(argv[0], "run") == 0) return kRan;
  target::begin(argc, argv);
  if (argc > 2) run_as_deleted(argv);
  MUST(setenv("RFORK_TARGET", "kept", 1));
  MUST(prctl(PR_SET_NAME, "own) (name"));
  const char* const files[] = {"/proc/self/cmdline", "/proc/self/environ", "/proc/self/auxv",
                               "/proc/self/comm"};
  std::string before[4];
  for (int i = 0; i < 4; ++i) before[i] = target::read_file(files[i]);
  const std::string executable = link_of("/proc/self/exe"), where = addresses();
  const std::string random(reinterpret_cast<char*>(getauxval(AT_RANDOM)), 16);
  const std::string platform = reinterpret_cast<char*>(getauxval(AT_PLATFORM));
  const std::string name = reinterpret_cast<char*>(getauxval(AT_EXECFN));

  target::ready();
  target::wait_for_go();

  for (int i = 0; i < 4; ++i) {
    if (target::read_file(files[i]) != before[i]) target::fail("%s differs", files[i]);
  }
  EXPECT_TEXT(link_of("/proc/self/exe"), executable);
  if (argc > 2) check_runs();
  EXPECT_TEXT(addresses(), where);
  EXPECT_TEXT(std::string(reinterpret_cast<char*>(getauxval(AT_RANDOM)), 16), random);
  EXPECT_TEXT(reinterpret_cast<char*>(getauxval(AT_PLATFORM)), platform);
  EXPECT_TEXT(reinterpret_cast<char*>(getauxval(AT_EXECFN)), name);
  EXPECT_TEXT(getenv("RFORK_TARGET"), "kept");
  EXPECT_TEXT(argv[0], name);
  EXPECT_EQ(getauxval(AT_PAGESZ), sysconf(_SC_PAGESIZE));
  // libc's idea of the pid and the kernel's agree.
  EXPECT_TEXT(target::status_line("Tgid:"), "Tgid:\t" + std::to_string(getpid()));
  EXPECT_EQ(gettid(), getpid());
  target::finish();
}
