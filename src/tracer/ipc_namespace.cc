#include "tracer/ipc_namespace.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sched.h>
#include <sys/shm.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <span>

#include "base/error.h"
#include "base/io.h"
#include "image/sysv_table.h"

namespace rfork::tracer {

namespace {

constexpr uint64_t kPage = 4096;

uint64_t inode_of(const UniqueFd& fd) {
  struct stat status {};
  return ::fstat(fd.get(), &status) == 0 ? status.st_ino : 0;
}

std::string whole(const UniqueFd& fd) {
  struct stat status {};
  if (::fstat(fd.get(), &status) != 0) return {};
  std::string text(static_cast<size_t>(status.st_size), '\0');
  const ssize_t got = ::pread(fd.get(), text.data(), text.size(), 0);
  text.resize(static_cast<size_t>(std::max<ssize_t>(got, 0)));
  return text;
}

/// Pages of zeros stay holes.
bool copy_pages(const std::byte* from, uint64_t size, int fd) {
  if (::ftruncate(fd, static_cast<off_t>(size)) != 0) return false;
  for (uint64_t at = 0; at < size; at += kPage) {
    const std::span page(from + at, kPage);
    if (std::ranges::all_of(page, [](std::byte byte) { return byte == std::byte{0}; })) continue;
    if (::pwrite(fd, page.data(), kPage, static_cast<off_t>(at)) != kPage) return false;
  }
  return true;
}

}  // namespace

IpcNamespace::IpcNamespace(pid_t pid) {
  UniqueFd theirs = open_or_throw(fmt::format("/proc/{}/ns/ipc", pid), O_RDONLY);
  inode_ = inode_of(theirs);
  if (inode_ == inode_of(open_or_throw("/proc/self/ns/ipc", O_RDONLY))) return;
  ipc_ = std::move(theirs);
  user_ = open_or_throw(fmt::format("/proc/{}/ns/user", pid), O_RDONLY);
}

/// Runs `work` there, in a process of its own unless this one is there: what it finds it leaves in
/// a file. setns(2) into a user namespace is for processes of one thread.
bool IpcNamespace::within(const std::function<bool()>& work) const {
  if (!ipc_) return work();
  const pid_t child = ::fork();
  if (child < 0) throw_errno("fork");
  if (child == 0) {
    // Who has no privilege here may have one in the user namespace that owns it.
    const auto enter = [&] { return ::setns(ipc_.get(), CLONE_NEWIPC) == 0; };
    const bool entered = enter() || (::setns(user_.get(), CLONE_NEWUSER) == 0 && enter());
    ::_exit(entered && work() ? 0 : 1);
  }
  int status = 0;
  while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

std::optional<std::string> IpcNamespace::told(const std::function<std::string()>& look) const {
  const UniqueFd found = make_memfd("rfork-told");
  const bool done = within([&] {
    const std::string text = look();
    return ::write(found.get(), text.data(), text.size()) == static_cast<ssize_t>(text.size());
  });
  if (!done) return std::nullopt;
  return whole(found);
}

std::optional<std::string> IpcNamespace::segments() const {
  return told([] { return try_read_file_at(AT_FDCWD, image::kSysvTable).value_or(std::string()); });
}

UniqueFd IpcNamespace::contents(int32_t id, uint64_t size) const {
  UniqueFd found = make_memfd("rfork-segment");
  const bool done = within([&] {
    void* const start = ::shmat(id, nullptr, SHM_RDONLY);
    if (reinterpret_cast<intptr_t>(start) == -1) return false;
    const bool copied = copy_pages(static_cast<const std::byte*>(start), size, found.get());
    ::shmdt(start);
    return copied;
  });
  if (!done) found.reset();
  return found;
}

void IpcNamespace::remove_unused(const image::SysvSegment& segment) const {
  within([&] {
    shmid_ds now{};
    return ::shmctl(segment.id, IPC_STAT, &now) == 0 && now.shm_nattch == 0 &&
           now.shm_segsz == segment.size && now.shm_ctime == segment.changed_s &&
           ::shmctl(segment.id, IPC_RMID, nullptr) == 0;
  });
}

}  // namespace rfork::tracer
