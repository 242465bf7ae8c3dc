#include "session/open_ends.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/epoll.h>

#include <optional>
#include <string>

#include "base/error.h"
#include "base/io.h"

namespace rfork::session {

OpenEnds::OpenEnds() : epoll_(::epoll_create1(EPOLL_CLOEXEC)) {
  if (!epoll_) throw_errno("epoll_create1");
}

void OpenEnds::watch(uint32_t id, int fd) {
  epoll_event event{};
  event.data.u64 = id;
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd, &event) != 0) throw_errno("epoll_ctl");
}

bool OpenEnds::has(uint32_t id) const {
  const auto info = try_read_file_at(AT_FDCWD, fmt::format("/proc/self/fdinfo/{}", epoll_.get()));
  return !info || info->find(fmt::format("data: {:16x} ", id)) != std::string::npos;
}

}  // namespace rfork::session
