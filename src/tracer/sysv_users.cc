#include "tracer/sysv_users.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/sem.h>

#include <cinttypes>
#include <cstdio>

#include "base/io.h"
#include "tracer/ipc_namespace.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

std::string name_of(const char* kind, int32_t id, int32_t key) {
  if (key == IPC_PRIVATE) return fmt::format("{} {}\n", kind, id);
  return fmt::format("{} {} (key {:#x})\n", kind, id, static_cast<uint32_t>(key));
}

bool was_last(pid_t pid, int32_t set, int semaphores) {
  for (int i = 0; i < semaphores; ++i) {
    const int last = ::semctl(set, i, GETPID);
    if (last < 0) return false;  // gone, or it may not be read
    if (last == pid) return true;
  }
  return false;
}

/// In the IPC namespace of `pid`: what it has used last, a line each.
std::string used_by(pid_t pid) {
  std::string used;
  const auto lines_of = [](const char* table) {
    return try_read_file_at(AT_FDCWD, table).value_or(std::string());
  };
  const std::string sets = lines_of("/proc/sysvipc/sem"), queues = lines_of("/proc/sysvipc/msg");
  int32_t key = 0, id = 0;
  for (const std::string_view line : split(sets, '\n')) {
    int semaphores = 0;  // key semid perms nsems (ipc/sem.c)
    if (std::sscanf(std::string(line).c_str(), "%" SCNd32 " %" SCNd32 " %*o %d", &key, &id,
                    &semaphores) == 3 &&
        was_last(pid, id, semaphores)) {
      used += name_of("semaphores", id, key);
    }
  }
  for (const std::string_view line : split(queues, '\n')) {
    pid_t sender = 0, receiver = 0;  // key msqid perms cbytes qnum lspid lrpid (ipc/msg.c)
    if (std::sscanf(std::string(line).c_str(), "%" SCNd32 " %" SCNd32 " %*o %*u %*u %d %d", &key,
                    &id, &sender, &receiver) == 4 &&
        (sender == pid || receiver == pid)) {
      used += name_of("message queue", id, key);
    }
  }
  return used;
}

}  // namespace

void find_sysv_obstacles(pid_t pid, std::vector<Reason>& obstacles) {
  const auto used = IpcNamespace(pid).told([&] { return used_by(pid); });
  if (!used) return;  // another's namespace: nothing can be known
  for (const std::string_view name : split(*used, '\n')) {
    obstacles.push_back({fmt::format("the process uses the SysV {}, which can't be carried", name),
                         "--drop-ipc goes on without what isn't there"});
  }
}

}  // namespace rfork::tracer
