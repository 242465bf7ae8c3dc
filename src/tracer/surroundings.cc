#include "tracer/surroundings.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/kcmp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <optional>

#include "base/error.h"
#include "base/io.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

bool is_in_other(pid_t pid, const char* space) {
  const auto theirs = try_read_link(fmt::format("/proc/{}/ns/{}", pid, space));
  const auto own = try_read_link(fmt::format("/proc/self/ns/{}", space));
  return theirs && own && theirs != own;
}

/// What the security module that has a say calls it; empty: none has, or it is free.
std::string label_of(const std::string& process) {
  auto label = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/attr/current", process));
  if (!label) return {};
  while (!label->empty() && (label->back() == '\n' || label->back() == '\0')) label->pop_back();
  return *label == "unconfined" ? std::string() : *label;
}

bool is_other_here(const image::File& file) {
  struct stat status {};
  return S_ISREG(file.mode) && file.path.starts_with('/') &&
         (::stat(file.path.c_str(), &status) != 0 || status.st_dev != file.device ||
          status.st_ino != file.inode);
}

/// `/a, /b and 3 more`; empty: none.
std::string names_of_other_files(const std::vector<image::File>& files) {
  constexpr size_t kNamed = 2;
  std::string names;
  size_t count = 0;
  for (const image::File& file : files) {
    if (!is_other_here(file)) continue;
    if (++count <= kNamed) names += (names.empty() ? "" : ", ") + file.path;
  }
  if (count > kNamed) names += fmt::format(" and {} more", count - kNamed);
  return names;
}

struct Ids {
  std::array<uid_t, 3> users{};
  std::array<gid_t, 3> groups{};
};

/// Whatever happens, only system calls: other threads of the program that was forked may have held
/// its locks.
[[noreturn]] void be_stranger(const Ids& ids, int ready) {
  const auto same = [](const auto& numbers) {
    return numbers[0] == numbers[1] && numbers[1] == numbers[2];
  };
  const uid_t user = ids.users[0];
  const gid_t group = ids.groups[0];
  const bool other = ::geteuid() != user || ::getegid() != group;
  if (other) {
    ::syscall(SYS_setresgid, group, group, group);
    ::syscall(SYS_setresuid, user, user, user);
  }
  __user_cap_header_struct header{_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct none[2]{};
  ::syscall(SYS_capset, &header, none);
  ::prctl(PR_SET_DUMPABLE, 1);
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  const bool like_it = same(ids.users) && same(ids.groups) && ::getuid() == user &&
                       ::geteuid() == user && ::getgid() == group && ::getegid() == group;
  if (like_it) (void)!::write(ready, "", 1);
  ::close_range(0, ~0u, 0);
  for (;;) ::pause();
}

/// The first three numbers: real, effective, saved.
template <typename T>
std::array<T, 3> three_numbers(const std::string& text) {
  std::array<T, 3> numbers{};
  size_t at = 0;
  for (T& number : numbers) {
    size_t used = 0;
    number = static_cast<T>(std::stoul(text.substr(at), &used));
    at += used;
  }
  return numbers;
}

}  // namespace

std::vector<std::string> other_surroundings(pid_t pid, const std::vector<image::File>& files) {
  std::vector<std::string> lines;
  if (is_in_other(pid, "net")) {
    lines.push_back(
        fmt::format("process {} is in a network namespace of its own; the child will be "
                    "in that of whoever restores it",
                    pid));
  }
  if (is_in_other(pid, "uts")) {
    lines.push_back(
        fmt::format("process {} is in a UTS namespace of its own; the child will have "
                    "the host name of whoever restores it",
                    pid));
  }
  if (is_in_other(pid, "mnt")) {
    const std::string names = names_of_other_files(files);
    if (!names.empty()) {
      lines.push_back(
          fmt::format("process {} is in a mount namespace of its own; the child will be "
                      "in that of whoever restores it, and must find there: {}",
                      pid, names));
    }
  }
  const std::string label = label_of(std::to_string(pid)), own = label_of("self");
  if (!label.empty() && label != own) {
    lines.push_back(
        fmt::format("process {} is confined by a security module as \"{}\"; the child "
                    "will be as free as whoever restores it",
                    pid, label));
  }
  return lines;
}

std::unique_ptr<LandlockProbe> LandlockProbe::make(pid_t pid) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/status", pid));
  if (!text) return nullptr;
  const auto status = parse_status(*text);
  const auto privileges = status.find("NoNewPrivs");
  if (privileges == status.end() || privileges->second != "1") return nullptr;
  if (is_in_other(pid, "user") || is_in_other(pid, "pid")) return nullptr;
  const Ids ids{three_numbers<uid_t>(status.at("Uid")), three_numbers<gid_t>(status.at("Gid"))};
  int ends[2];
  if (::pipe2(ends, O_CLOEXEC) != 0) return nullptr;
  const UniqueFd reader(ends[0]);
  UniqueFd writer(ends[1]);
  const pid_t stranger = ::fork();
  if (stranger < 0) return nullptr;
  if (stranger == 0) be_stranger(ids, writer.get());
  writer.reset();
  std::unique_ptr<LandlockProbe> probe(new LandlockProbe(pid, stranger));
  char ready;
  ssize_t n;
  while ((n = ::read(reader.get(), &ready, 1)) < 0 && errno == EINTR) {
  }
  return n == 1 ? std::move(probe) : nullptr;
}

LandlockProbe::~LandlockProbe() {
  ::kill(stranger_, SIGKILL);
  while (::waitpid(stranger_, nullptr, 0) < 0 && errno == EINTR) {
  }
}

void LandlockProbe::refuse_domain(RemoteSyscalls& calls) const {
  const auto stranger = static_cast<uint64_t>(stranger_);
  if (calls.call(SYS_kcmp, {stranger, stranger, KCMP_VM}) != -EPERM) return;
  throw Refusal(Failure::cannot_carry,
                fmt::format("process {} may not look at other processes of its user: it is in a "
                            "Landlock domain (landlock(7)), or confined otherwise, of which the "
                            "child would be free",
                            pid_),
                "--drop-attributes goes on without that");
}

}  // namespace rfork::tracer
