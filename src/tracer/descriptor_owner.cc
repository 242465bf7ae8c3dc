#include "tracer/descriptor_owner.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <optional>

#include "base/io.h"
#include "tracer/inventory.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

namespace {

// As the process itself sees it; nullopt when `tid` is no thread of `pid`, or has ended.
std::optional<int32_t> inner_tid(pid_t pid, pid_t tid) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/task/{}/status", pid, tid));
  if (!text) return std::nullopt;
  const std::string ids = parse_status(*text).at("NSpid");
  return std::stoi(ids.substr(ids.find_last_of('\t') + 1));
}

// In the process's own numbers; nullopt: somebody else.
std::optional<int32_t> own_number(pid_t pid, const f_owner_ex& owner) {
  if (owner.type == F_OWNER_PGRP)
    return owner.pid == ::getpgid(pid) ? std::optional(owner.pid) : std::nullopt;
  if (owner.type == F_OWNER_PID && owner.pid != pid) return std::nullopt;
  return inner_tid(pid, owner.pid);
}

}  // namespace

void describe_owner(pid_t pid, int fd, image::Description& description,
                    std::vector<Reason>& obstacles) {
  using Kind = image::Description::Kind;
  // O_PATH gets no signals; for the others something of there stands in.
  if ((description.flags & O_PATH) != 0 || description.kind == Kind::stdio ||
      description.kind == Kind::relay) {
    return;
  }
  const UniqueFd own = duplicate_descriptor(pid, fd);
  f_owner_ex owner{};
  if (!own || ::fcntl(own.get(), F_GETOWN_EX, &owner) != 0) return;
  description.owner_signal = std::max(::fcntl(own.get(), F_GETSIG), 0);
  if (owner.pid == 0) return;
  const auto number = own_number(pid, owner);
  if (!number) {
    obstacles.push_back({fmt::format("descriptor {} sends its signals (F_SETOWN) to {} {}, which "
                                     "doesn't come along",
                                     fd,
                                     owner.type == F_OWNER_PGRP  ? "process group"
                                     : owner.type == F_OWNER_TID ? "thread"
                                                                 : "process",
                                     owner.pid),
                         fmt::format("--drop-fd {} goes on without it", fd)});
    return;
  }
  description.owner_type = owner.type;
  description.owner = *number;
}

}  // namespace rfork::tracer
