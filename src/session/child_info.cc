#include "session/child_info.h"

#include <fmt/format.h>

#include <cstring>

namespace rfork::session {

std::string_view name_of(ChildState state) {
  switch (state) {
    case ChildState::receiving:
      return "receiving";
    case ChildState::ready:
      return "ready";
    case ChildState::granted:
      return "starting";
    case ChildState::running:
      return "running";
    case ChildState::ended:
      return "ended";
  }
  return "unknown";
}

std::string describe(const loader::ChildEnd& end) {
  if (!end.signalled) return fmt::format("exit status {}", end.code);
  return fmt::format("signal {} ({}){}", end.code, strsignal(end.code),
                     end.core_dumped ? ", core dumped" : "");
}

int exit_code(const loader::ChildEnd& end) {
  return end.signalled ? 128 + end.code : end.code;
}

}  // namespace rfork::session
