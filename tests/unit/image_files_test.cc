#include "image/files.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <filesystem>

#include "base/io.h"
#include "image/leases.h"

using namespace rfork;
using namespace rfork::image;

namespace {

/// A folder that goes away with its contents.
struct Folder {
  Folder() {
    std::string name = std::filesystem::temp_directory_path() / "rfork-test-XXXXXX";
    if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("mkdtemp");
    path = name;
  }
  ~Folder() {
    std::error_code ignored;
    std::filesystem::remove_all(path, ignored);
  }
  std::string write(const char* name, std::string_view text) const {
    const std::string full = path / name;
    const UniqueFd fd = open_or_throw(full, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    write_full(fd.get(), as_bytes(text), full);
    return full;
  }
  std::filesystem::path path;
};

File identified(const std::string& path) {
  return identify(open_or_throw(path, O_RDONLY).get(), path);
}

File file() {
  File file{1, "/a", 10, S_IFREG | 0644, 0x801, 77, 1000, 2000, "", ""};
  return file;
}

}  // namespace

TEST_CASE("a file is identified by what statx says") {
  const Folder folder;
  const std::string path = folder.write("a", "hello");
  const File file = identified(path);
  struct stat facts {};
  REQUIRE(::stat(path.c_str(), &facts) == 0);
  CHECK(file.path == path);
  CHECK(file.size == 5);
  CHECK(file.inode == facts.st_ino);
  CHECK(file.device == facts.st_dev);
  CHECK(file.mtime_ns == facts.st_mtim.tv_sec * 1'000'000'000 + facts.st_mtim.tv_nsec);
  CHECK(file.build_id.empty());
  CHECK_THROWS(identify(-1, "nothing"));
}

TEST_CASE("a program's build-id is read") {
  const std::string id = identified("/proc/self/exe").build_id;
  CHECK((id.empty() || id.size() == 40));
  const std::string libc = identified("/lib/x86_64-linux-gnu/libc.so.6").build_id;
  CHECK(libc.size() == 40);
}

TEST_CASE("a file that only starts like a program has no build-id") {
  const Folder folder;
  CHECK(identified(folder.write("a", "\177ELF\2\1\1")).build_id.empty());
}

TEST_CASE("digests tell contents apart") {
  const Folder folder;
  const std::string large(1'000'000, 'x');
  const auto digest = [&](const char* name, const std::string& text) {
    return content_digest(open_or_throw(folder.write(name, text), O_RDONLY).get());
  };
  CHECK(digest("a", large) == digest("b", large));
  CHECK(digest("a", large) != digest("b", large + "y"));
  CHECK(digest("a", "") == "99aa06d3014798d86001c324468d497f");  // XXH3-128 of nothing
}

TEST_CASE("the same contents: by inode under the same boot") {
  CHECK(same_contents(file(), file(), true));
  File other = file();
  other.mtime_ns++;
  CHECK_FALSE(same_contents(file(), other, true));
  other = file();
  other.size++;
  CHECK_FALSE(same_contents(file(), other, true));
  other = file();
  other.device++;
  CHECK_FALSE(same_contents(file(), other, true));
}

TEST_CASE("the same contents: on another host by birth time, or not at all") {
  File other = file();
  other.device++;  // numbers of devices mean nothing there
  CHECK(same_contents(file(), other, false));
  other.btime_ns++;
  CHECK_FALSE(same_contents(file(), other, false));
  File unborn = file();
  unborn.btime_ns = 0;
  CHECK_FALSE(same_contents(unborn, unborn, false));
}

TEST_CASE("the same contents: by build-id and size, or by digest") {
  File there = file(), here = file();
  here.inode = 78;
  CHECK_FALSE(same_contents(there, here, false));
  there.build_id = here.build_id = "c0ffee";
  CHECK(same_contents(there, here, false));
  here.size++;  // stripped
  CHECK_FALSE(same_contents(there, here, false));
  here = there;
  here.inode = 78;
  here.build_id.clear();
  there.digest = "aa";
  CHECK_FALSE(same_contents(there, here, false));
  here.digest = "aa";
  CHECK(same_contents(there, here, false));
  here.digest = "bb";
  CHECK_FALSE(same_contents(there, here, false));
}

TEST_CASE("the same inode, whatever is in it") {
  File grown = file();
  grown.size = 999;
  grown.mtime_ns = 999;
  CHECK(same_inode(file(), grown, true));
  CHECK(same_inode(file(), grown, false));
  grown.inode = 1;
  CHECK_FALSE(same_inode(file(), grown, true));
}

TEST_CASE("who holds the lease that an open would break is found in /proc/locks") {
  const Leases leases(
      "1: POSIX  ADVISORY  WRITE 10 08:01:77 0 EOF\n"
      "2: LEASE  ACTIVE    READ  11 08:01:77 0 EOF\n"
      "3: LEASE  ACTIVE    WRITE 12 fe:02:78 0 EOF\n"
      "4: LEASE  BREAKING  READ  13 08:01:79 0 EOF\n"
      "no line of that file\n");
  CHECK(leases.broken_by_open(makedev(8, 1), 77, O_RDONLY) == std::nullopt);
  CHECK(leases.broken_by_open(makedev(8, 1), 77, O_WRONLY) == 11);
  CHECK(leases.broken_by_open(makedev(8, 1), 77, O_RDWR | O_PATH) == std::nullopt);
  CHECK(leases.broken_by_open(makedev(0xfe, 2), 78, O_RDONLY) == 12);
  CHECK(leases.broken_by_open(makedev(8, 1), 78, O_RDONLY) == std::nullopt);
  CHECK(leases.broken_by_open(makedev(8, 1), 79, O_RDONLY) == 13);
  CHECK(leases.broken_by_open("/dev/null", O_RDWR) == std::nullopt);
}

TEST_CASE("open_same opens what is the same and nothing else") {
  const Folder folder;
  const std::string path = folder.write("a", "contents");
  File there = identified(path);
  CHECK(open_same(there, true));
  there.inode++;
  CHECK_FALSE(open_same(there, true));
  there.digest = content_digest(open_or_throw(path, O_RDONLY).get());
  CHECK(open_same(there, true));
  folder.write("a", "CONTENTS");
  CHECK_FALSE(open_same(there, true));
  there.path = folder.path / "missing";
  CHECK_FALSE(open_same(there, true));
  there.path = folder.path;
  CHECK_FALSE(open_same(there, true));
  const std::string fifo = folder.path / "fifo";
  REQUIRE(::mkfifo(fifo.c_str(), 0600) == 0);
  there.path = fifo;
  CHECK_FALSE(open_same(there, true));
}
