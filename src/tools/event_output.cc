#include "tools/event_output.h"

#include <unistd.h>

#include "base/io.h"

namespace rfork {

namespace {

/// At once: somebody may read it as it comes.
void print_line(const std::string& line) {
  write_full(STDOUT_FILENO, as_bytes(line + "\n"), "standard output");
}

}  // namespace

void print_events(const session::Endpoint& endpoint, const std::string& child_id, bool follow) {
  const session::EventSink sink{
      [](const session::HostEvent& event) { print_line(event_line(event)); },
      [](const std::string& host, uint64_t count) {
        print_line(session::missed_line(host, count));
      }};
  session::read_events(endpoint, child_id, follow, sink);
}

}  // namespace rfork
