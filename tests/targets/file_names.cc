// Open files whose names have changed: renamed, replaced by another of the same name, left with
// another link, mapped and deleted, a name in a directory that is gone; directories that were
// removed, the working directory among them.
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "target.h"

namespace {

int create(const std::string& file, const char* text) {
  const int fd = MUST(open(file.c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  EXPECT_EQ(write(fd, text, std::strlen(text)), std::strlen(text));
  return fd;
}

std::string contents(int fd) {
  char bytes[64];
  const ssize_t size = MUST(pread(fd, bytes, sizeof bytes, 0));
  return std::string(bytes, static_cast<size_t>(size));
}

ino_t inode(const std::string& file) {
  struct stat status;
  MUST(stat(file.c_str(), &status));
  return status.st_ino;
}

ino_t inode(int fd) {
  struct stat status;
  MUST(fstat(fd, &status));
  return status.st_ino;
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const auto path = [](const char* name) { return target::path(name); };
  const int renamed = create(path("before"), "renamed");
  MUST(rename(path("before").c_str(), path("after").c_str()));
  const int replaced = create(path("replaced"), "old");
  close(create(path("replaced.new"), "new"));
  MUST(rename(path("replaced.new").c_str(), path("replaced").c_str()));
  const int linked = create(path("first-name"), "linked");
  MUST(link(path("first-name").c_str(), path("second-name").c_str()));
  MUST(unlink(path("first-name").c_str()));
  const int mapped = create(path("mapped"), "mapped");
  const int also_mapped = MUST(open(path("mapped").c_str(), O_RDONLY));
  char* const map =
      static_cast<char*>(target::map(target::kPage, PROT_READ | PROT_WRITE, MAP_SHARED, mapped));
  MUST(unlink(path("mapped").c_str()));
  MUST(mkdir(path("removed").c_str(), 0700));
  const int orphan = create(path("removed/orphan"), "orphan");
  MUST(unlink(path("removed/orphan").c_str()));
  const int removed = MUST(open(path("removed").c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  MUST(rmdir(path("removed").c_str()));
  MUST(mkdir(path("cwd").c_str(), 0700));
  MUST(chdir(path("cwd").c_str()));
  MUST(rmdir(path("cwd").c_str()));
  MUST(symlink(path("after").c_str(), path("link").c_str()));
  const int through_link = MUST(open(path("link").c_str(), O_RDONLY));
  const int sparse = MUST(open(path("sparse").c_str(), O_RDWR | O_CREAT | O_EXCL, 0600));
  if (pwrite(sparse, "end", 3, (off_t{1} << 40) - 3) != 3) MUST(ftruncate(sparse, 64 << 20));
  struct stat of_sparse;
  MUST(fstat(sparse, &of_sparse));
  MUST(unlink(path("sparse").c_str()));
  MUST(symlink("nowhere", path("gone-link").c_str()));
  const int gone_link = MUST(open(path("gone-link").c_str(), O_PATH | O_NOFOLLOW));
  MUST(unlink(path("gone-link").c_str()));
  MUST(mkfifo(path("gone-fifo").c_str(), 0600));
  const int gone_fifo = MUST(open(path("gone-fifo").c_str(), O_PATH));
  MUST(unlink(path("gone-fifo").c_str()));

  target::ready();
  target::wait_for_go();

  EXPECT_TEXT(contents(renamed), "renamed");
  EXPECT_EQ(inode(renamed), inode(path("after")));
  EXPECT_EQ(inode(through_link), inode(path("after")));
  EXPECT_TEXT(contents(replaced), "old");
  EXPECT(target::read_file(path("replaced").c_str()) == "new");
  EXPECT(inode(replaced) != inode(path("replaced")));
  EXPECT_EQ(pwrite(replaced, "odd", 3, 0), 3);
  EXPECT(target::read_file(path("replaced").c_str()) == "new");
  EXPECT_TEXT(contents(linked), "linked");
  EXPECT_EQ(inode(linked), inode(path("second-name")));
  EXPECT(access(path("first-name").c_str(), F_OK) != 0);

  EXPECT_TEXT(contents(mapped), "mapped");
  map[0] = 'M';
  EXPECT_EQ(inode(mapped), inode(also_mapped));
  EXPECT_TEXT(contents(also_mapped), "Mapped");
  EXPECT_EQ(pwrite(mapped, "m", 1, 0), 1);
  EXPECT_EQ(map[0], 'm');

  struct stat status;
  EXPECT_TEXT(contents(orphan), "orphan");
  MUST(fstat(removed, &status));
  EXPECT(S_ISDIR(status.st_mode));
  EXPECT_EQ(status.st_nlink, 0);
  EXPECT_EQ(openat(removed, "new", O_WRONLY | O_CREAT, 0600), -1);
  EXPECT_EQ(errno, ENOENT);
  EXPECT_EQ(fcntl(removed, F_GETFD), FD_CLOEXEC);
  char cwd[4096];
  EXPECT(getcwd(cwd, sizeof cwd) == nullptr);
  EXPECT_EQ(errno, ENOENT);
  // A restore makes the name for a moment.
  for (const char* name : {"removed", "cwd"}) {
    for (int i = 0; access(path(name).c_str(), F_OK) == 0; ++i) {
      if (i == 1000) target::fail("%s is there again", name);
      usleep(1000);
    }
  }

  char text[64];
  EXPECT_EQ(readlinkat(gone_link, "", text, sizeof text), 7);
  EXPECT(std::memcmp(text, "nowhere", 7) == 0);
  MUST(fstat(gone_fifo, &status));
  EXPECT(S_ISFIFO(status.st_mode));
  EXPECT_EQ(status.st_nlink, 0);
  EXPECT_EQ(fcntl(gone_fifo, F_GETFL) & (O_PATH | O_NOFOLLOW), O_PATH);

  struct stat now;
  MUST(fstat(sparse, &now));
  EXPECT_EQ(now.st_size, of_sparse.st_size);
  EXPECT(now.st_blocks <= of_sparse.st_blocks + 64);
  target::finish();
}
