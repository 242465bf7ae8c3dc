// Directory, umask, nice value, personality, no_new_privs, limits, OOM score, parent-death and dumpable
// state; a directory of its own as the current one.
#include <fcntl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"

namespace {

std::string limits() { return target::read_file("/proc/self/limits"); }

mode_t mask() {
  const mode_t now = umask(0);
  umask(now);
  return now;
}

void lower(int resource, rlim_t soft, rlim_t hard) {
  rlimit limit;
  MUST(getrlimit(resource, &limit));
  if (hard < limit.rlim_max) limit.rlim_max = hard;
  limit.rlim_cur = soft < limit.rlim_max ? soft : limit.rlim_max;
  MUST(setrlimit(resource, &limit));
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string folder = target::path("a folder of its own");
  if (mkdir(folder.c_str(), 0700) != 0) EXPECT_EQ(errno, EEXIST);
  MUST(chdir(folder.c_str()));
  umask(0137);
  MUST(setpriority(PRIO_PROCESS, 0, 7));
  MUST(personality(ADDR_NO_RANDOMIZE));
  MUST(prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0));
  lower(RLIMIT_CORE, 4096, 1 << 20);
  constexpr int kAbove = 800;  // opened when the limit allowed it
  const int null = open("/dev/null", O_RDWR);
  MUST(dup2(null, kAbove));
  MUST(close(null));
  lower(RLIMIT_NOFILE, 777, 20000);
  lower(RLIMIT_STACK, 4 << 20, RLIM_INFINITY);
  lower(RLIMIT_CPU, 5000, 6000);
  lower(RLIMIT_FSIZE, 1 << 30, RLIM_INFINITY);
  lower(RLIMIT_MEMLOCK, 65536, RLIM_INFINITY);
  const int score = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (score >= 0) {
    EXPECT_EQ(write(score, "321", 3), 3);
    close(score);
  }
  const std::string limits_before = limits();
  const std::string oom_before = target::read_file("/proc/self/oom_score_adj");

  target::ready();
  target::wait_for_go();

  char cwd[4096];
  EXPECT(getcwd(cwd, sizeof cwd) != nullptr);
  EXPECT_TEXT(cwd, folder);
  EXPECT_EQ(mask(), 0137);
  EXPECT_EQ(getpriority(PRIO_PROCESS, 0), 7);
  EXPECT_EQ(personality(0xffffffff), ADDR_NO_RANDOMIZE);
  EXPECT_EQ(prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0), 1);
  EXPECT_EQ(prctl(PR_GET_DUMPABLE), 1);
  EXPECT_TEXT(limits(), limits_before);
  EXPECT_EQ(write(kAbove, "x", 1), 1);
  EXPECT_TEXT(target::read_file("/proc/self/oom_score_adj"), oom_before);
  target::finish();
}
