#include "session/connection_holder.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <string_view>

#include "base/error.h"
#include "base/io.h"
#include "image/connection_holder.h"

namespace rfork::session {

namespace {

using image::HolderMessage;
using Word = HolderMessage::Word;

constexpr const char* kOption = "--hold-connections";

std::string random_name() {
  std::array<unsigned char, 16> bytes{};
  if (::getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    throw_errno("getrandom");
  }
  std::string name = "rfork-held-";
  for (const unsigned char byte : bytes) name += fmt::format("{:02x}", byte);
  return name;
}

/// In a forked process. Its line to rfork-trace is descriptor 3, what it listens at 4.
[[noreturn]] void become_holder(int line, int listening, char* const* argv) {
  constexpr int kAbove = 10;
  const int null = ::open("/dev/null", O_RDWR);
  const int sources[] = {null, null, null, ::fcntl(line, F_DUPFD, kAbove),
                         ::fcntl(listening, F_DUPFD, kAbove)};
  int number = 0;
  for (const int source : sources) {
    if (source < 0 || ::dup2(source, number++) < 0) ::_exit(1);
  }
  ::close_range(static_cast<unsigned>(number), ~0u, 0);
  ::setsid();
  if (const pid_t holder = ::fork(); holder != 0) ::_exit(holder < 0 ? 1 : 0);
  if (::chdir("/") != 0) ::_exit(1);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGXFSZ}) ::signal(signal, SIG_DFL);
  ::execv("/proc/self/exe", argv);
  ::_exit(1);
}

/// The tracer's stop: not killed.
bool stands_frozen(pid_t pid) {
  const auto stat = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/stat", pid));
  const size_t name_end = stat ? stat->rfind(')') : std::string::npos;
  return name_end != std::string::npos && stat->substr(name_end).starts_with(") t");
}

}  // namespace

ConnectionHolder::ConnectionHolder(const std::string& words) {
  rlimit limit{};  // ours too: each connection is open here
  if (::getrlimit(RLIMIT_NOFILE, &limit) == 0) {
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
  }
  described_.name = random_name();
  described_.network_namespace = image::own_network_namespace();
  const UniqueFd listening = image::holder_socket();
  if (const int error = image::bind_holder(listening.get(), described_.name); error != 0) {
    throw Error("bind", error, described_.name);
  }
  auto [line, its_line] = make_seqpacket_pair();
  std::string program = "rfork-trace", option = kOption, text = words;
  char* const argv[] = {program.data(), option.data(), text.data(), nullptr};
  const pid_t starter = ::fork();
  if (starter < 0) throw_errno("fork");
  if (starter == 0) become_holder(its_line.get(), listening.get(), argv);
  its_line.reset();
  while (::waitpid(starter, nullptr, 0) < 0 && errno == EINTR) {
  }
  line_ = std::move(line);
  const auto hello = image::receive_of_holder(line_.get());
  if (!hello || hello->message.word != Word::done) {
    throw Refusal(Failure::internal, "what is to hold the TCP connections doesn't start");
  }
  described_.pid = hello->message.number;
}

void ConnectionHolder::hold(const std::vector<tracer::KeptSocket>& sockets, uid_t owner) {
  for (size_t first = 0; first < sockets.size(); first += image::kMostHeldAtOnce) {
    HolderMessage message;
    message.word = Word::hold;
    message.number = static_cast<int32_t>(owner);
    std::vector<int> passed;
    for (size_t i = first; i < std::min(sockets.size(), first + image::kMostHeldAtOnce); ++i) {
      message.cookies[message.count++] = sockets[i].cookie;
      passed.push_back(sockets[i].fd.get());
    }
    const bool sent = image::send_to_holder(line_.get(), message, passed);
    const auto answer = sent ? image::receive_of_holder(line_.get()) : std::nullopt;
    if (!answer || answer->message.word != Word::done) {
      throw Refusal(Failure::internal,
                    fmt::format("the TCP connections can't be held: {}", std::strerror(errno)));
    }
  }
}

void ConnectionHolder::prepare(pid_t original, bool stopped) {
  const UniqueFd process(static_cast<int>(::syscall(SYS_pidfd_open, original, 0)));
  if (!process) throw ProcessGone(original);
  HolderMessage message;
  message.word = Word::prepare;
  message.number = stopped ? 1 : 0;
  const bool sent = image::send_to_holder(line_.get(), message, {process.get()});
  const auto answer = sent ? image::receive_of_holder(line_.get()) : std::nullopt;
  if (answer && answer->message.word == Word::done) return;
  throw Refusal(Failure::internal,
                fmt::format("process {}, which is to hold the TCP connections of {}, has ended; {} "
                            "goes on",
                            described_.pid, original, original));
}

void ConnectionHolder::end_original(pid_t original) {
  HolderMessage message;
  message.word = Word::commit;
  const bool sent = image::send_to_holder(line_.get(), message, {});
  const auto answer = sent ? image::receive_of_holder(line_.get()) : std::nullopt;
  if (answer && answer->message.word == Word::done) return;
  const std::string why = answer ? std::strerror(answer->message.number) : "it has ended";
  if (stands_frozen(original)) {
    throw Refusal(Failure::internal,
                  fmt::format("process {}, which is to hold the TCP connections of {}, can't: {}; "
                              "{} goes on",
                              described_.pid, original, why, original));
  }
  throw Refusal(Failure::in_doubt,
                fmt::format("process {}, which held the TCP connections of {}, has ended, and so "
                            "has {}: the image is complete, but its connections are closed",
                            described_.pid, original, original),
                "rfork-run --drop-fd goes on without them");
}

bool is_connection_holder(int argc, char** argv) {
  return argc > 1 && std::string_view(argv[1]) == kOption;
}

}  // namespace rfork::session
