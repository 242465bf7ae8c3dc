// Pseudo-terminals whose both ends the process has: modes, size, packet mode, locks, what was
// closed, and the session's own terminal.
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <termios.h>
#include <unistd.h>

#include <algorithm>

#include "target.h"

namespace {

int make_master(int flags = 0) {
  const int fd = MUST(posix_openpt(O_RDWR | O_NOCTTY | flags));
  MUST(unlockpt(fd));
  return fd;
}

std::string name_of(int master) {
  char name[64];
  EXPECT_EQ(ptsname_r(master, name, sizeof name), 0);
  return name;
}

int open_slave(int master, int flags = O_RDWR) {
  return MUST(open(name_of(master).c_str(), flags | O_NOCTTY));
}

void say(int fd, const char* text) {
  EXPECT_EQ(write(fd, text, std::strlen(text)), std::strlen(text));
}

/// What comes within 5 s; as many bytes as are wanted.
std::string hear(int fd, size_t size) {
  std::string text;
  while (text.size() < size) {
    pollfd one{fd, POLLIN, 0};
    EXPECT_EQ(poll(&one, 1, 5000), 1);
    char bytes[256];
    const ssize_t n = MUST(read(fd, bytes, std::min(sizeof bytes, size - text.size())));
    text.append(bytes, static_cast<size_t>(n));
  }
  return text;
}

bool readable(int fd) {
  pollfd one{fd, POLLIN, 0};
  return poll(&one, 1, 50) == 1 && (one.revents & POLLIN) != 0;
}

/// As a shell finds it: canonical, with echo.
struct Cooked {
  int master = make_master(O_CLOEXEC), slave = open_slave(master), again = MUST(dup(slave));
  int writer = open_slave(master, O_WRONLY | O_NONBLOCK);

  Cooked() {
    const winsize size{33, 111, 5, 6};
    MUST(ioctl(master, TIOCSWINSZ, &size));
    termios modes{};
    MUST(tcgetattr(slave, &modes));
    modes.c_cc[VERASE] = 'X';
    modes.c_iflag |= IXANY;
    MUST(tcsetattr(slave, TCSANOW, &modes));
    MUST(fchmod(slave, 0640));
  }
  void check() {
    winsize size{};
    MUST(ioctl(slave, TIOCGWINSZ, &size));
    EXPECT_EQ(size.ws_row, 33);
    EXPECT_EQ(size.ws_col, 111);
    EXPECT_EQ(size.ws_ypixel, 6);
    EXPECT_EQ(fcntl(master, F_GETFD), FD_CLOEXEC);
    EXPECT_EQ(fcntl(slave, F_GETFD), 0);
    EXPECT_EQ(fcntl(writer, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_WRONLY | O_NONBLOCK);
    struct stat by_name {
    }, open_one{};
    MUST(stat(name_of(master).c_str(), &by_name));
    MUST(fstat(slave, &open_one));
    EXPECT_EQ(by_name.st_rdev, open_one.st_rdev);
    EXPECT_EQ(open_one.st_mode & 0777, 0640);
    EXPECT(isatty(slave) == 1);
    say(master, "lineX\n");
    EXPECT_TEXT(hear(again, 4), "lin\n");
    EXPECT_TEXT(hear(master, 9), "line\b \b\r\n");
    say(writer, "shown\n");
    EXPECT_TEXT(hear(master, 7), "shown\r\n");
    EXPECT(!readable(master));
  }
};

struct Raw {
  int master = make_master(O_NONBLOCK), slave = open_slave(master);

  Raw() {
    termios modes{};
    MUST(tcgetattr(slave, &modes));
    cfmakeraw(&modes);
    modes.c_cc[VMIN] = 3;
    modes.c_cc[VTIME] = 0;
    MUST(cfsetspeed(&modes, B19200));
    MUST(tcsetattr(slave, TCSANOW, &modes));
    const int on = 1;
    MUST(ioctl(master, TIOCPKT, &on));
  }
  void check() {
    termios modes{};
    MUST(tcgetattr(slave, &modes));
    EXPECT_EQ(modes.c_lflag & (ICANON | ECHO | ISIG), 0);
    EXPECT_EQ(modes.c_cc[VMIN], 3);
    EXPECT_EQ(cfgetospeed(&modes), B19200);
    char byte;
    EXPECT_EQ(read(master, &byte, 1), -1);
    EXPECT_EQ(errno, EAGAIN);
    say(slave, "a\nb");
    const std::string packet = hear(master, 4);
    EXPECT_EQ(packet[0], TIOCPKT_DATA);
    EXPECT_TEXT(packet.substr(1), "a\nb");
    say(master, "\x03no");
    EXPECT_TEXT(hear(slave, 3), "\x03no");
  }
};

struct Others {
  int locked = MUST(posix_openpt(O_RDWR | O_NOCTTY)), unused = make_master(), left = make_master();
  int exclusive = make_master(), exclusive_slave = open_slave(exclusive);

  Others() {
    close(open_slave(left));
    MUST(ioctl(exclusive_slave, TIOCEXCL));
  }
  void check() {
    int is_locked = 0;
    MUST(ioctl(locked, TIOCGPTLCK, &is_locked));
    EXPECT_EQ(is_locked, 1);
    EXPECT_EQ(open(name_of(locked).c_str(), O_RDWR | O_NOCTTY), -1);
    MUST(unlockpt(locked));
    close(open_slave(locked));
    // Nobody has opened it yet: who reads waits.
    pollfd one{unused, POLLIN, 0};
    EXPECT_EQ(poll(&one, 1, 0), 0);
    char byte;
    EXPECT_EQ(read(left, &byte, 1), -1);
    EXPECT_EQ(errno, EIO);
    int is_exclusive = 0;
    MUST(ioctl(exclusive_slave, TIOCGEXCL, &is_exclusive));
    EXPECT_EQ(is_exclusive, 1);
    MUST(ioctl(exclusive_slave, TIOCNXCL));
    close(open_slave(exclusive));
  }
};

volatile sig_atomic_t resized = 0;

/// Where the process leads a session before and after.
struct Own {
  int master = make_master(), slave = open_slave(master);
  bool leads = false;

  Own() {
    leads = (getsid(0) == getpid() || setsid() >= 0) && ioctl(slave, TIOCSCTTY, 0) == 0;
    signal(SIGWINCH, [](int) { resized = 1; });
    signal(SIGHUP, SIG_IGN);
  }
  void check() {
    const winsize size{5, 6, 0, 0};
    MUST(ioctl(master, TIOCSWINSZ, &size));
    if (!leads || getsid(0) != getpid()) return;
    EXPECT_EQ(MUST(tcgetpgrp(slave)), getpgrp());
    EXPECT_EQ(MUST(tcgetsid(slave)), getsid(0));
    for (int i = 0; i < 1000 && resized == 0; ++i) usleep(1000);
    EXPECT_EQ(resized, 1);
    close(MUST(open("/dev/tty", O_RDWR)));
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Cooked cooked;
  Raw raw;
  Others others;
  Own own;
  target::ready();
  target::wait_for_go();
  cooked.check();
  raw.check();
  others.check();
  own.check();
  target::finish();
}
