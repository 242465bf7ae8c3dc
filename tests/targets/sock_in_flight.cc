// Descriptors on their way from one socket of the process to another (SCM_RIGHTS): what they lead
// to, with which message they come, and that some are known here already.
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>

#include <vector>

#include "sockets.h"

namespace {

using sockets::receive;
using sockets::say;

void pass(int through, const std::string& text, const std::vector<int>& fds) {
  iovec vector{const_cast<char*>(text.data()), text.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
  cmsghdr* const rights = CMSG_FIRSTHDR(&message);
  rights->cmsg_level = SOL_SOCKET;
  rights->cmsg_type = SCM_RIGHTS;
  rights->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
  std::memcpy(CMSG_DATA(rights), fds.data(), fds.size() * sizeof(int));
  EXPECT_EQ(sendmsg(through, &message, 0), text.size());
}

/// The message and what came with it.
std::string take(int from, std::vector<int>& fds, size_t size = 4096) {
  std::string bytes(size, '\0');
  iovec vector{bytes.data(), bytes.size()};
  alignas(cmsghdr) char control[CMSG_SPACE(8 * sizeof(int))]{};
  msghdr message{};
  message.msg_iov = &vector;
  message.msg_iovlen = 1;
  message.msg_control = control;
  message.msg_controllen = sizeof control;
  const ssize_t n = MUST(recvmsg(from, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC));
  fds.clear();
  if (const cmsghdr* const one = CMSG_FIRSTHDR(&message); one != nullptr) {
    fds.resize((one->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    std::memcpy(fds.data(), CMSG_DATA(one), fds.size() * sizeof(int));
  }
  bytes.resize(static_cast<size_t>(n));
  return bytes;
}

struct Pair {
  int a, b;
  explicit Pair(int type) {
    int ends[2];
    MUST(socketpair(AF_UNIX, type, 0, ends));
    a = ends[0], b = ends[1];
  }
};

/// A file, an end of a pipe whose other end stays, a directory, all closed here.
struct Things {
  Pair pair{SOCK_SEQPACKET};
  int writer;

  Things() {
    const int file = MUST(open(target::path("passed").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
    EXPECT_EQ(write(file, "contents", 8), 8);
    MUST(lseek(file, 3, SEEK_SET));
    int ends[2];
    MUST(pipe(ends));
    writer = ends[1];
    EXPECT_EQ(write(writer, "piped", 5), 5);
    const int folder = MUST(open(target::path("").c_str(), O_RDONLY | O_DIRECTORY));
    pass(pair.a, "three", {file, ends[0], folder});
    say(pair.a, "none");
    pass(pair.a, "one", {MUST(eventfd(5, 0))});
    for (const int fd : {file, ends[0], folder, folder + 1}) close(fd);
  }
  void check() {
    std::vector<int> fds;
    char bytes[64];
    EXPECT_TEXT(take(pair.b, fds), "three");
    EXPECT_EQ(fds.size(), 3);
    EXPECT_EQ(read(fds[0], bytes, sizeof bytes), 5);
    EXPECT_EQ(std::memcmp(bytes, "tents", 5), 0);
    EXPECT_EQ(write(writer, " on", 3), 3);
    EXPECT_EQ(read(fds[1], bytes, sizeof bytes), 8);
    EXPECT_EQ(std::memcmp(bytes, "piped on", 8), 0);
    close(writer);
    EXPECT_EQ(read(fds[1], bytes, sizeof bytes), 0);
    struct stat status {};
    MUST(fstat(fds[2], &status));
    EXPECT(S_ISDIR(status.st_mode));
    EXPECT_TEXT(take(pair.b, fds), "none");
    EXPECT_EQ(fds.size(), 0);
    EXPECT_TEXT(take(pair.b, fds), "one");
    uint64_t count = 0;
    EXPECT_EQ(read(fds.at(0), &count, sizeof count), sizeof count);
    EXPECT_EQ(count, 5);
  }
};

/// In a stream they come with their own bytes, and what is open here too is the same.
struct Stream {
  Pair pair{SOCK_STREAM};
  int kept = MUST(open(target::path("kept").c_str(), O_RDWR | O_CREAT | O_TRUNC, 0600));
  Stream() {
    say(pair.a, "before");
    pass(pair.a, "with", {kept, pair.a});
    say(pair.a, "after");
  }
  void check() {
    std::vector<int> fds;
    EXPECT_TEXT(take(pair.b, fds, 6), "before");
    EXPECT_EQ(fds.size(), 0);
    EXPECT_TEXT(take(pair.b, fds), "with");
    EXPECT_EQ(fds.size(), 2);
    MUST(lseek(kept, 4711, SEEK_SET));
    EXPECT_EQ(lseek(fds[0], 0, SEEK_CUR), 4711);
    say(fds[1], " and by itself");
    EXPECT_TEXT(take(pair.b, fds), "after and by itself");
  }
};

/// A socket in which something is, in a socket.
struct Nested {
  Pair outer{SOCK_DGRAM}, inner{SOCK_STREAM};
  int stays = inner.a;
  Nested() {
    say(inner.a, "deep");
    pass(outer.a, "the inner one", {inner.b});
    close(inner.b);
  }
  void check() {
    std::vector<int> fds;
    EXPECT_TEXT(take(outer.b, fds), "the inner one");
    EXPECT_EQ(fds.size(), 1);
    EXPECT_TEXT(receive(fds[0]), "deep");
    say(stays, "more");
    EXPECT_TEXT(receive(fds[0]), "more");
    close(stays);
    EXPECT_TEXT(receive(fds[0]), "");
  }
};

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  Things things;
  Stream stream;
  Nested nested;
  target::ready();
  target::wait_for_go();
  things.check();
  stream.check();
  nested.check();
  target::finish();
}
