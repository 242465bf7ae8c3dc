// Leases of files (F_SETLEASE) are the process's own afterwards: somebody who opens the file waits
// until the process, which gets its signal, has given it up. `read`: one that several can have;
// `write`: one of a file that nobody else has open.
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "target.h"

namespace {

volatile sig_atomic_t asked = 0;  // signals so far
volatile sig_atomic_t asked_for = -1;

void give_up(int, siginfo_t* info, void*) {
  asked_for = info->si_fd;
  asked = asked + 1;
}

// What another process gets that opens it: 0, or errno.
int error_of_open(const char* file, int flags) {
  const pid_t other = MUST(fork());
  if (other == 0) _exit(open(file, flags | O_NONBLOCK) < 0 ? errno : 0);
  int status = 0;
  while (waitpid(other, &status, 0) < 0) EXPECT_EQ(errno, EINTR);
  EXPECT(WIFEXITED(status));
  return WEXITSTATUS(status);
}

void wait_until_asked() {
  while (asked == 0) usleep(1000);
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv, 1);
  const bool write = std::string(target::argument(0)) == "write";
  const int type = write ? F_WRLCK : F_RDLCK;
  const int signal = write ? SIGIO : SIGRTMIN + 3;
  struct sigaction action {};
  action.sa_sigaction = give_up;
  action.sa_flags = SA_SIGINFO | SA_RESTART;
  MUST(sigaction(signal, &action, nullptr));

  mkdir(target::path("leased").c_str(), 0777);
  const std::string file = target::path(write ? "leased/write" : "leased/read");
  const int made = MUST(open(file.c_str(), O_RDWR | O_CREAT, 0600));
  EXPECT_EQ(::write(made, "contents", 8), 8);
  close(made);
  const int fd = MUST(open(file.c_str(), write ? O_RDWR : O_RDONLY));
  MUST(fcntl(fd, F_SETSIG, write ? 0 : signal));
  if (fcntl(fd, F_SETLEASE, type) != 0) target::skip("no leases here: %s", std::strerror(errno));

  target::ready();
  while (!target::go()) usleep(1000);  // which the signal may interrupt

  // Others that share a read lease may have begun.
  if (write) EXPECT_EQ(asked, 0);
  if (asked == 0) EXPECT_EQ(fcntl(fd, F_GETLEASE), type);
  EXPECT_EQ(fcntl(fd, F_GETOWN), getpid());
  EXPECT_EQ(fcntl(fd, F_GETSIG), write ? 0 : signal);
  char contents[9] = "";
  EXPECT_EQ(pread(fd, contents, 8, 0), 8);
  EXPECT_TEXT(contents, "contents");
  const int how = write ? O_RDONLY : O_WRONLY;
  EXPECT_EQ(error_of_open(file.c_str(), how), EWOULDBLOCK);
  wait_until_asked();
  if (!write) EXPECT_EQ(asked_for, fd);
  EXPECT_EQ(fcntl(fd, F_GETLEASE), write ? F_RDLCK : F_UNLCK);  // what it is asked for
  MUST(fcntl(fd, F_SETLEASE, F_UNLCK));
  while (error_of_open(file.c_str(), how) != 0) usleep(1000);  // others give theirs up, too
  if (write) {
    MUST(fcntl(fd, F_SETLEASE, F_WRLCK));
    EXPECT_EQ(fcntl(fd, F_GETLEASE), F_WRLCK);
  }
  target::finish();
}
