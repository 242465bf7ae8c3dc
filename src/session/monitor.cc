#include "session/monitor.h"

#include <poll.h>

#include <algorithm>
#include <cerrno>
#include <set>

#include "base/clock.h"
#include "base/error.h"
#include "net/datagrams.h"

namespace rfork::session {

namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kPatience = 200 * kMillisecond;
constexpr int64_t kLook = 50 * kMillisecond;  ///< between two looks whether it is to end
constexpr size_t kMostWaiting = 20'000;
constexpr size_t kMostAtOnce = 256;  ///< datagrams, before some are shown

class Monitor {
 public:
  Monitor(const net::Address& at, const MonitorSink& sink) : receiver_(at), sink_(sink) {}

  void run(const std::function<bool()>& interrupted) {
    sink_.listening();
    while (!interrupted()) {
      wait();
      hear();
      show(timeline_.take_due(clock_ns(CLOCK_MONOTONIC)));
    }
    show(timeline_.take_all());
  }

 private:
  void wait() const {
    const int64_t now = clock_ns(CLOCK_MONOTONIC);
    const int64_t until =
        std::clamp(timeline_.next_due_ns().value_or(now + kLook), now, now + kLook);
    pollfd input{receiver_.fd(), POLLIN, 0};
    const auto timeout = static_cast<int>((until - now + kMillisecond - 1) / kMillisecond);
    if (::poll(&input, 1, timeout) < 0 && errno != EINTR) throw_errno("poll");
  }

  void hear() {
    for (size_t i = 0; i < kMostAtOnce; ++i) {
      std::optional<net::Datagram> datagram = receiver_.next();
      if (!datagram) return;
      std::string& line = datagram->text;
      if (line.ends_with('\n')) line.pop_back();
      if (auto told = parse_event_line(line)) {
        timeline_.add(datagram->sender, std::move(*told), std::move(line),
                      clock_ns(CLOCK_MONOTONIC));
      } else {
        complain(datagram->sender);
      }
    }
  }

  void complain(const std::string& sender) {
    constexpr size_t kMost = 4096;
    if (complained_.size() >= kMost) complained_.clear();  // senders can be invented
    if (complained_.insert(sender).second) sink_.garbage(sender);
  }

  void show(const std::vector<Timeline::Entry>& entries) const {
    for (const Timeline::Entry& entry : entries) sink_.event(entry);
  }

  net::DatagramReceiver receiver_;
  const MonitorSink& sink_;
  Timeline timeline_{kPatience, kMostWaiting};
  std::set<std::string> complained_;
};

}  // namespace

void monitor(const net::Address& at, const std::function<bool()>& interrupted,
             const MonitorSink& sink) {
  Monitor(at, sink).run(interrupted);
}

}  // namespace rfork::session
