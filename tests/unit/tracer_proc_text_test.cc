// The texts of /proc: real lines, odd lines, and lines that are none.
#include <sys/resource.h>
#include <sys/sysmacros.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <stdexcept>

#include "image/sysv_table.h"
#include "tracer/posix_timers.h"
#include "tracer/proc_text.h"
#include "tracer/thread_attributes.h"
#include "tracer/watched_files.h"

using namespace rfork;
using namespace rfork::tracer;

TEST_CASE("maps lines are parsed with all their fields") {
  const auto lines = parse_maps(
      "00400000-00401000 r-xp 00002000 fe:00 1234                               /usr/bin/a b\n"
      "7f0000000000-7f0000001000 rw-s 00000000 00:01 77                         /memfd:x "
      "(deleted)\n"
      "7ffc00000000-7ffc00021000 rw-p 00000000 00:00 0                          [stack]\n"
      "7f0000002000-7f0000003000 ---p 00000000 00:00 0 \n"
      "ffffffffff600000-ffffffffff601000 --xp 00000000 00:00 0                  [vsyscall]\n");
  REQUIRE(lines.size() == 4);
  CHECK(lines[0].range == Range{0x400000, 0x401000});
  CHECK((lines[0].read && !lines[0].write && lines[0].execute && !lines[0].shared));
  CHECK(lines[0].offset == 0x2000);
  CHECK(lines[0].device == makedev(0xfe, 0));
  CHECK(lines[0].inode == 1234);
  CHECK(lines[0].name == "/usr/bin/a b");
  CHECK_FALSE(lines[0].deleted);
  CHECK(lines[1].name == "/memfd:x");
  CHECK(lines[1].deleted);
  CHECK(lines[1].shared);
  CHECK(lines[2].name == "[stack]");
  CHECK(lines[3].name.empty());
}

TEST_CASE("only a newline is written with digits in maps") {
  const auto lines =
      parse_maps("00400000-00401000 r-xp 00000000 fe:00 1 /new\\012line\\040\\134012\\0\n");
  REQUIRE(lines.size() == 1);
  CHECK(lines[0].name == "/new\nline\\040\\134012\\0");
}

TEST_CASE("lines of mountinfo are parsed with all their fields") {
  const auto mounts = parse_mountinfo(
      "22 1 254:1 / / rw,relatime shared:1 - ext4 /dev/root rw\n"
      "23 22 0:21 / /proc rw - proc proc rw\n"
      "4711 22 0:52 /in /mnt/a\\040disk\\011with\\134040\\043 rw master:2 shared:3 - tmpfs none "
      "rw\n");
  REQUIRE(mounts.size() == 3);
  CHECK(mounts[0].id == 22);
  CHECK(mounts[0].point == "/");
  CHECK(mounts[0].device == makedev(254, 1));
  CHECK_FALSE(mounts[0].is_proc);
  CHECK(mounts[1].is_proc);
  CHECK(mounts[2].id == 4711);
  CHECK(mounts[2].point == "/mnt/a disk\twith\\040#");
  CHECK_THROWS_AS(parse_mountinfo("22 1 254:1 / /\n"), std::invalid_argument);
}

TEST_CASE("lines of sysvipc are parsed with all their fields") {
  const auto lines = image::parse_sysv_lines(
      "       key      shmid perms                  size  cpid  lpid nattch   uid   gid  cuid  "
      "cgid  "
      "    atime      dtime      ctime                   rss                  swap\n"
      "-1534444175         77  3644                   100 10559     9      2     1     2     3     "
      "4 "
      "         5          6 1795286826                     0                     0\n"
      "         0 2147450880   600  18446744073709551615     1     1      0     0     0     0     "
      "0 "
      "         0          0          7                     0                     0\n");
  REQUIRE(lines.size() == 2);
  const image::SysvSegment want{77, -1534444175, 100,        0644, 1,    2, 3,
                                4,  10559,       1795286826, true, true, 0};
  CHECK(lines[0].segment == want);
  CHECK(lines[0].attached == 2);
  CHECK(lines[1].segment.id == 2147450880);
  CHECK(lines[1].segment.size == UINT64_MAX);
  CHECK(lines[1].segment.changed_s == 7);
  CHECK_FALSE(lines[1].segment.removed);
  CHECK(image::parse_sysv_lines("").empty());
}

TEST_CASE("a newline in a path comes back") {
  const auto lines = parse_maps("1000-2000 r--p 00000000 fe:00 5 /tmp/a\\012b\n");
  CHECK(lines.at(0).name == "/tmp/a\nb");
}

TEST_CASE("what is no maps line is refused with its text") {
  for (const char* bad : {"nonsense\n", "2000-1000 r--p 0 fe:00 5\n", "1000-2000 r-p 0 fe:00 5\n",
                          "1000-2000 r--p zz fe:00 5\n"}) {
    CHECK_THROWS_AS(parse_maps(bad), std::invalid_argument);
  }
}

TEST_CASE("smaps gives page size and flags of each mapping") {
  const auto entries = parse_smaps(
      "1000-3000 rw-p 00000000 00:00 0 [heap]\nSize:  8 kB\nKernelPageSize:        4 kB\n"
      "VmFlags: rd wr mr mw me ac sd \n"
      "5000-6000 rw-p 00000000 00:00 0 \nKernelPageSize:     2048 kB\nProtectionKey:         "
      "3\nVmFlags: rd wr dc wf ht \n");
  REQUIRE(entries.size() == 2);
  CHECK(entries[0].range == Range{0x1000, 0x3000});
  CHECK(entries[0].kernel_page_size == 4096);
  CHECK(entries[0].has("mw"));
  CHECK_FALSE(entries[0].has("dc"));
  CHECK(entries[1].kernel_page_size == 2u << 20);
  CHECK(entries[1].protection_key == 3);
  CHECK(entries[1].has("wf"));
  CHECK_THROWS_AS(parse_smaps("Size: 8 kB\n"), std::invalid_argument);
}

TEST_CASE("locks and leases of a descriptor") {
  using Kind = image::FileLock::Kind;
  const auto locks = parse_locks(
      "pos:\t0\nflags:\t0100002\nlock:\t1: POSIX  ADVISORY  WRITE 4242 00:1f:5678 10 19\n"
      "lock:\t2: LEASE  ACTIVE    WRITE 4242 00:1f:5678 0 EOF\n"
      "lock:\t3: LEASE  BREAKING  UNLCK 4242 00:1f:5678 0 EOF\n"
      "lock:\t4: DELEG  ACTIVE    READ  4242 00:1f:5678 0 EOF\n");
  REQUIRE(locks.size() == 4);
  const auto& range = std::get<image::FileLock>(locks[0]);
  CHECK(range.kind == Kind::posix);
  CHECK(range.start == 10);
  CHECK(range.size == 10);
  CHECK(std::get<image::FileLock>(locks[1]).kind == Kind::lease);
  CHECK(std::get<image::FileLock>(locks[1]).exclusive);
  CHECK(std::get<std::string>(locks[2]) == kBreakingLease);
  CHECK(std::get<std::string>(locks[3]) == "DELEG");
}

TEST_CASE("a program's name can hold anything, parentheses too") {
  std::string text = "12 (a) b (c) S 1 2 3";
  for (int i = 0; i < 60; ++i) text += " 7";
  const auto fields = parse_stat_fields(text);
  CHECK(fields.at(0) == "S");
  CHECK(fields.at(1) == "1");
  CHECK_THROWS_AS(parse_stat_fields("12 (a) S 1 2"), std::invalid_argument);
  CHECK_THROWS_AS(parse_stat_fields("garbage"), std::invalid_argument);
}

TEST_CASE("limits are found by name, unlimited is all ones") {
  const char* names[] = {
      "Max cpu time",       "Max file size",     "Max data size",         "Max stack size",
      "Max core file size", "Max resident set",  "Max processes",         "Max open files",
      "Max locked memory",  "Max address space", "Max file locks",        "Max pending signals",
      "Max msgqueue size",  "Max nice priority", "Max realtime priority", "Max realtime timeout"};
  std::string text = "Limit                     Soft Limit           Hard Limit           Units\n";
  int soft = 1;
  for (const char* name : names)
    text += std::string(name) + "    " + std::to_string(soft++) + "   unlimited  bytes\n";
  const auto limits = parse_limits(text);
  CHECK(limits[RLIMIT_CPU].soft == 1);
  CHECK(limits[RLIMIT_STACK].soft == 4);
  CHECK(limits[RLIMIT_NOFILE].soft == 8);
  CHECK(limits[RLIMIT_NOFILE].hard == RLIM_INFINITY);
  CHECK_THROWS_AS(parse_limits("Max cpu time 1 2 seconds\n"), std::invalid_argument);
}

TEST_CASE("values of fdinfo and sched") {
  CHECK(value_of("pos:\t17\nflags:\t0100002\n", "flags") == "0100002");
  CHECK(value_of("se.exec_start      :     12.5\nnr_switches   :   7\n", "nr_switches") == "7");
  CHECK_FALSE(value_of("pos:\t17\n", "mnt_id").has_value());
}

TEST_CASE("files that are watched, by inode and handle") {
  const std::string line =
      "fanotify ino:3c51d sdev:fe00001 mflags:40 mask:0 ignored_mask:1 fhandle-bytes:8 "
      "fhandle-type:1 f_handle:1dc50300a1000000";
  const auto file = wanted_inode(line);
  REQUIRE(file);
  CHECK(file->inode == 0x3c51d);
  CHECK(file->device == makedev(0xfe, 1));
  CHECK(file->handle_type == 1);
  CHECK(file->handle.size() == 8);
  CHECK(hex_field(line, "mask") == 0);
  CHECK(hex_field(line, "ignored_mask") == 1);
  CHECK(hex_field(line, "flags") == std::nullopt);
  CHECK(wanted_inode("fanotify mnt_id:1b mflags:0 mask:2 ignored_mask:0") == std::nullopt);
  CHECK(wanted_inode("inotify wd:1 ino:7 sdev:15 mask:2 ignored_mask:0")->handle.empty());
  CHECK(hex_field("fanotify mnt_id:", "mnt_id") == std::nullopt);
}

TEST_CASE("POSIX timers are listed by id, with whom they signal") {
  const auto timers = parse_timers(
      "ID: 16\nsignal: 39/1234567800000027\nnotify: signal/tid.23857\nClockID: 1\n"
      "ID: 3\nsignal: 0/0000000000000000\nnotify: none/pid.23855\nClockID: -190842\n");
  REQUIRE(timers.size() == 2);
  CHECK(timers[0].id == 3);
  CHECK(timers[0].notify == SIGEV_NONE);
  CHECK(clock_owner(timers[0].clock).id == 23855);
  CHECK(clock_owner(timers[0].clock).thread);
  CHECK(own_clock(timers[0].clock) == -2);
  CHECK(timers[1].signal == 39);
  CHECK(timers[1].value == 0x1234567800000027);
  CHECK(timers[1].notify == (SIGEV_SIGNAL | SIGEV_THREAD_ID));
  CHECK(timers[1].thread == 23857);
  CHECK(timers[1].clock == 1);
  CHECK(parse_timers("").empty());
  for (const char* text :
       {"ID: x\n", "ClockID: 1\n", "ID: 1\nsignal: 1\n", "ID: 1\nnotify: odd/pid.1\n"}) {
    CHECK_THROWS_AS(parse_timers(text), std::invalid_argument);
  }
}

TEST_CASE("a timer on the clock of another process is named") {
  std::vector<Reason> reasons;
  image::PosixTimer timer{.id = 5, .clock = static_cast<int32_t>(~42u << 3 | 2)};
  find_timer_obstacles({timer}, {42, 43}, reasons);
  CHECK(reasons.empty());
  find_timer_obstacles({timer}, {43}, reasons);
  REQUIRE(reasons.size() == 1);
  CHECK(reasons[0].what.find("process 42") != std::string::npos);
}

TEST_CASE("lists of CPUs") {
  CHECK(parse_cpu_list("0-2,8\n") == std::vector<uint32_t>{0, 1, 2, 8});
  CHECK(parse_cpu_list("").empty());
  for (const char* text : {"a", "1-", "3-1", "0-99999999", "1 2"}) {
    CHECK_THROWS_AS(parse_cpu_list(text), std::invalid_argument);
  }
}
