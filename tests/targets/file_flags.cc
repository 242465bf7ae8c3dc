// How files were opened: O_PATH of every kind of file, O_SYNC, O_DIRECT, O_NOATIME, and O_TMPFILE
// that gets a name later.
#include <fcntl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <vector>

#include "target.h"

namespace {

struct Opened {
  int fd;
  int flags;
  struct stat status;

  explicit Opened(int number) : fd(number), flags(MUST(fcntl(number, F_GETFL))) {
    MUST(fstat(fd, &status));
  }
  void check() const {
    EXPECT_EQ(fcntl(fd, F_GETFL), flags);
    struct stat now;
    MUST(fstat(fd, &now));
    EXPECT_EQ(now.st_mode, status.st_mode);
    EXPECT_EQ(now.st_ino, status.st_ino);
  }
};

std::string link_of(int fd) {
  char link[4096];
  const ssize_t size =
      MUST(readlink(("/proc/self/fd/" + std::to_string(fd)).c_str(), link, sizeof link));
  return std::string(link, static_cast<size_t>(size));
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string file = target::path("file"), folder = target::path("folder"),
                    link = target::path("link"), fifo = target::path("fifo"),
                    socket_name = target::path("socket");
  close(MUST(open(file.c_str(), O_WRONLY | O_CREAT, 0600)));
  MUST(mkdir(folder.c_str(), 0700));
  MUST(symlink("nowhere", link.c_str()));
  MUST(mkfifo(fifo.c_str(), 0600));
  const int server = MUST(socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  MUST(chdir(target::path("").c_str()));
  std::strcpy(address.sun_path, "socket");
  MUST(bind(server, reinterpret_cast<sockaddr*>(&address), sizeof address));
  close(server);

  std::vector<Opened> opened;
  for (const std::string& path :
       {file, folder, link, fifo, socket_name, std::string("/dev/null")}) {
    opened.emplace_back(MUST(open(path.c_str(), O_PATH | O_NOFOLLOW | O_CLOEXEC)));
  }
  for (const int flags : {O_RDWR | O_SYNC, O_RDWR | O_DSYNC | O_APPEND, O_RDONLY | O_NOATIME,
                          O_WRONLY | O_NOFOLLOW, O_RDWR | O_DIRECT}) {
    const int fd = open(file.c_str(), flags);
    if (fd < 0 && (flags & O_DIRECT) != 0) continue;
    opened.emplace_back(MUST(fd));
  }
  const int linkable = open(target::path("").c_str(), O_TMPFILE | O_RDWR, 0600);
  const int linked = open(target::path("").c_str(), O_TMPFILE | O_RDWR, 0600);
  const auto give_name = [](int fd, const std::string& path) {
    return linkat(AT_FDCWD, ("/proc/self/fd/" + std::to_string(fd)).c_str(), AT_FDCWD, path.c_str(),
                  AT_SYMLINK_FOLLOW);
  };
  if (linkable >= 0) {
    EXPECT_EQ(write(linkable, "to be published", 15), 15);
    EXPECT_EQ(write(linked, "published", 9), 9);
    MUST(give_name(linked, target::path("linked")));
  }

  target::ready();
  target::wait_for_go();

  for (const Opened& one : opened) one.check();
  EXPECT_TEXT(link_of(opened[2].fd), link);
  char bytes[64];
  EXPECT_EQ(readlinkat(opened[2].fd, "", bytes, sizeof bytes), 7);
  EXPECT_EQ(read(opened[0].fd, bytes, 1), -1);
  EXPECT_EQ(errno, EBADF);
  const int below = MUST(openat(opened[1].fd, "below", O_WRONLY | O_CREAT, 0600));
  close(below);
  if (linkable >= 0) {
    // With a mount namespace of its own the process has the file from another one's mount.
    const std::string name = target::path("named-") + std::to_string(target::now_ns());
    if (give_name(linkable, name) == 0) {
      EXPECT(target::read_file(name.c_str()) == "to be published");
    } else {
      EXPECT_EQ(errno, EXDEV);
    }
    EXPECT_EQ(write(linked, "!", 1), 1);
    EXPECT_EQ(pread(linked, bytes, 10, 0), 10);
    EXPECT(target::read_file(target::path("linked").c_str()) == "published!");
  }
  target::finish();
}
