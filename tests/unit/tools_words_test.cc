// The kernel's flags in the words of the man pages, by the names that fields have in JSON.
#include <fcntl.h>
#include <sched.h>
#include <sys/epoll.h>

#include <catch2/catch.hpp>
#include <csignal>
#include <cstring>

#include "image/capability_words.h"
#include "image/json.h"
#include "image_samples.h"
#include "tools/byte_words.h"
#include "tools/field_words.h"
#include "tools/kernel_words.h"
#include "tools/process_words.h"

using namespace rfork;
using namespace rfork::tools;
using nlohmann::json;

namespace {

json binary(const void* data, size_t size) {
  const auto* const bytes = static_cast<const uint8_t*>(data);
  return json::binary(std::vector<uint8_t>(bytes, bytes + size));
}

/// What print_fields() writes.
std::string printed(const json& value, const std::string& path) {
  char* text = nullptr;
  size_t size = 0;
  std::FILE* const out = ::open_memstream(&text, &size);
  print_fields(value, path, 2, out);
  std::fclose(out);
  std::string result(text, size);
  std::free(text);
  return result;
}

/// Names of the members that are set, at every depth.
void collect_names(const json& value, std::vector<std::string>& names) {
  for (const auto& [name, member] : value.items()) {
    if (is_unset(member)) continue;
    if (value.is_object()) names.push_back(name);
    if (member.is_structured()) collect_names(member, names);
  }
}

}  // namespace

TEST_CASE("flags have the names of the man pages") {
  CHECK(field_words("processes.actions.flags", SA_RESTART | SA_SIGINFO) == "SA_SIGINFO|SA_RESTART");
  CHECK(field_words("descriptions.flags", O_RDWR | O_NONBLOCK) == "O_RDWR|O_NONBLOCK");
  CHECK(field_words("descriptions.timer.flags", 1) == "TFD_TIMER_ABSTIME");
  CHECK(field_words("descriptions.watches.events", uint32_t{EPOLLIN | EPOLLET}) ==
        "EPOLLIN|EPOLLET");
  CHECK(field_words("descriptions.fanotify.flags", 0xc01) ==
        "FAN_CLOEXEC|FAN_REPORT_DIR_FID|FAN_REPORT_NAME");
  CHECK(field_words("descriptions.fanotify.event_flags", O_RDWR | O_CLOEXEC) == "O_RDWR|O_CLOEXEC");
  CHECK(field_words("descriptions.fanotify.marks.flags", 0x440) ==
        "FAN_MARK_IGNORED_SURV_MODIFY|FAN_MARK_IGNORE");
  CHECK(field_words("descriptions.fanotify.marks.mask", 0x48000100) ==
        "FAN_CREATE|FAN_EVENT_ON_CHILD|FAN_ONDIR");
  CHECK(field_words("processes.threads.signal_mask", uint64_t{1} << (SIGUSR1 - 1)) == "SIGUSR1");
  CHECK(field_words("processes.threads.scheduling.policy", SCHED_FIFO) == "SCHED_FIFO");
  CHECK(field_words("processes.umask", 022) == "022");
  CHECK(field_words("objects.segment.key", -1534444175) == "0xa48a3d71");
  CHECK(field_words("objects.segment.key", 0) == "IPC_PRIVATE");
  CHECK(field_words("processes.threads.memory_policy.mode", 2 | 1 << 15) == "bind=static");
  CHECK(field_words("processes.memory_policies.policy.mode", 6) == "weighted interleave");
}

TEST_CASE("what has no name is a number, and what says itself what it is has no words") {
  CHECK(field_words("processes.actions.flags", 0x10000u | SA_RESTART) == "SA_RESTART|0x10000");
  CHECK(!field_words("descriptions.count", 7));
  CHECK(field_text("descriptions.count", 7) == "7");
  CHECK(field_text("processes.layout.brk", 4096) == "0x1000");
  CHECK(field_text("descriptions.timer.value_ns", 20'000'000) == "20 ms");
  CHECK(field_text("descriptions.semaphore", true) == "yes");
}

TEST_CASE("the longest name that a path ends with counts") {
  CHECK(field_words("processes.threads.alt_stack.flags", 2) == "SS_DISABLE");
  CHECK(!field_words("processes.threads.rseq.flags", 2));
}

TEST_CASE("clocks by name, those of CPU time too") {
  CHECK(clock_word(CLOCK_BOOTTIME) == "CLOCK_BOOTTIME");
  CHECK(clock_word(-6) == "CLOCK_PROCESS_CPUTIME_ID");
  CHECK(clock_word(-2) == "CLOCK_THREAD_CPUTIME_ID");
  CHECK(clock_word(-8) == "CPU clock of a process, CPUCLOCK_PROF");
}

TEST_CASE("capabilities by name") {
  constexpr uint64_t kAll = (uint64_t{1} << 41) - 1;
  CHECK(image::capability_words(kAll) == "all");
  CHECK(image::capability_words(kAll & ~(uint64_t{1} << 24)) == "all but CAP_SYS_RESOURCE");
  CHECK(image::capability_words(1u << 5) == "CAP_KILL");
  CHECK(image::capability_words(0).empty());
}

TEST_CASE("a queued signal with what its sender said") {
  siginfo_t info{};
  info.si_signo = SIGUSR1;
  info.si_code = SI_QUEUE;
  info.si_pid = 17;
  info.si_uid = 5;
  info.si_value.sival_int = 6;
  CHECK(field_words("processes.pending", binary(&info, sizeof info)) ==
        "SIGUSR1 SI_QUEUE of pid 17 uid 5, value 0x6");
  CHECK(field_words("processes.pending", binary(&info, 4)).has_value());
}

TEST_CASE("limits and timers are called by their names") {
  CHECK(element_name("processes.limits", 7) == "RLIMIT_NOFILE");
  CHECK(element_name("processes.timers", 1) == "ITIMER_VIRTUAL");
  CHECK(element_name("processes.threads", 1) == "1");
}

TEST_CASE("every field that is set is shown") {
  const image::Snapshot snapshot = image::samples::rich_snapshot();
  const json everything = snapshot;
  std::vector<std::string> names;
  collect_names(everything, names);
  REQUIRE(names.size() > 100);
  const std::string text = printed(everything, "snapshot");
  for (const std::string& name : names) {
    INFO(name);
    CHECK(text.find(name) != std::string::npos);
  }
}

TEST_CASE("JSON has words beside the numbers") {
  json value = {{"watches", {{{"fd", 3}, {"events", 1}}}}, {"flags", 2}, {"count", 1}};
  add_words(value, "descriptions");
  CHECK(value["watches"][0]["events"] == 1);
  CHECK(value["watches"][0]["events_words"] == "EPOLLIN");
  CHECK(value["flags_words"] == "O_RDWR");
  CHECK_FALSE(value.contains("count_words"));
}

TEST_CASE("what a number of a socket means depends on its neighbour") {
  CHECK(protocol_words(2, 6) == "IPPROTO_TCP");
  CHECK(protocol_words(16, 6) == "NETLINK_XFRM");
  CHECK(protocol_words(2, 253) == "253");
  const json socket = {{"family", 10}, {"protocol", 17}, {"type", 2}};
  CHECK(printed(socket, "descriptions.socket") ==
        "  family AF_INET6, protocol IPPROTO_UDP, type SOCK_DGRAM\n");
  const int wanted = 1, preferences = 1280;
  const uint64_t rate = ~uint64_t{0};
  json options =
      json::array({{{"name", "IP_MTU_DISCOVER"}, {"value", binary(&wanted, 4)}},
                   {{"name", "IPV6_ADDR_PREFERENCES"}, {"value", binary(&preferences, 4)}},
                   {{"name", "SO_MAX_PACING_RATE"}, {"value", binary(&rate, 8)}},
                   {{"name", "SO_KEEPALIVE"}, {"value", binary(&wanted, 4)}}});
  add_words(options, "descriptions.socket.options");
  CHECK(options[0].at("value_words") == "IP_PMTUDISC_WANT");
  CHECK(options[1].at("value_words") == "IPV6_PREFER_SRC_PUBTMP_DEFAULT|IPV6_PREFER_SRC_HOME");
  CHECK(options[2].at("value_words") == "unlimited");
  CHECK(options[3].at("value_words") == "1");
}

TEST_CASE("a short time isn't none") {
  CHECK(duration_words(0) == "0 ns");
  CHECK(duration_words(99) == "99 ns");
  CHECK(duration_words(50'000) == "50 µs");
  CHECK(duration_words(400'000) == "0.4 ms");
  CHECK(duration_words(-99) == "-99 ns");
}
