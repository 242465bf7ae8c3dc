// The line between a worker and its daemon.
#include <catch2/catch.hpp>
#include <thread>

#include "base/error.h"
#include "base/io.h"
#include "session/daemon_line.h"
#include "session/messages.h"

using namespace rfork;
using namespace rfork::session;
using std::chrono::milliseconds;

namespace {

struct Pair {
  Pair() : Pair(make_seqpacket_pair()) {}
  explicit Pair(std::pair<UniqueFd, UniqueFd> ends)
      : daemon(std::move(ends.first)), worker(Channel(std::move(ends.second))) {}
  Channel daemon;
  DaemonLine worker;
};

}  // namespace

TEST_CASE("an answer that comes while a worker looks for an abort is not lost") {
  Pair line;
  line.daemon.send(PacketType::child);
  line.daemon.send(PacketType::done);
  CHECK_FALSE(line.worker.aborted());
  CHECK_FALSE(line.worker.aborted());
  CHECK_FALSE(line.worker.aborted());
  CHECK(line.worker.hear(PacketType::child, milliseconds(0)));
  CHECK(line.worker.hear(PacketType::done, milliseconds(0)));
  CHECK_FALSE(line.worker.hear(PacketType::done, milliseconds(0)));
  line.daemon.send(PacketType::child);
  CHECK_FALSE(line.worker.aborted());
  line.daemon.send(PacketType::aborted, encode(AbortMessage{"why"}));
  CHECK(line.worker.aborted());
}

TEST_CASE("reports wait for room, in order, and for no daemon that has ended") {
  Pair line;
  constexpr int kMany = 2000;  // more than a socket holds
  std::thread daemon([&] {
    for (int32_t i = 0; i < kMany; ++i) {
      const auto packet = line.daemon.receive(milliseconds(10'000));
      if (!packet || decode<SignalReport>(packet->body).signal != i) return;
    }
    const Channel ended = std::move(line.daemon);
  });
  for (int32_t i = 0; i < kMany; ++i) {
    line.worker.report(PacketType::signalled, encode(SignalReport{"1", i}));
  }
  daemon.join();
  line.worker.report(PacketType::signalled, encode(SignalReport{"1", 0}));
  CHECK(line.worker.aborted());
}
