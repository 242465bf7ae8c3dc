#include "net/ssh.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <poll.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <thread>
#include <vector>

#include "base/io.h"
#include "base/text.h"

namespace rfork::net {

namespace {

using Clock = std::chrono::steady_clock;
using std::chrono::milliseconds;

constexpr int kNotFound = 127;       // exit status of a shell that has no such command
constexpr int kNotExecutable = 126;  // and of one that may not run it
constexpr int kOwnFailure = 255;     // of ssh when it is its own failure
constexpr size_t kMaxMessages = 64u << 10;

/// A value of the environment, or what stands for it.
std::string setting(const char* name, const char* otherwise) {
  const char* const value = std::getenv(name);
  return value != nullptr && value[0] != '\0' ? value : otherwise;
}

std::vector<std::string> split_at_blanks(const std::string& text) {
  std::vector<std::string> words;
  for (size_t at = 0; (at = text.find_first_not_of(" \t\n", at)) != std::string::npos;) {
    const size_t end = std::min(text.find_first_of(" \t\n", at), text.size());
    words.push_back(text.substr(at, end - at));
    at = end;
  }
  return words;
}

/// The options are scp's, against what ssh's configuration may say of this host for people who log
/// in, and BatchMode: there is no terminal to ask at. The rest lets a host that vanished be noticed
/// in half a minute, as over TCP.
std::vector<std::string> command_line(const Address& address) {
  std::vector<std::string> words = split_at_blanks(setting("RFORK_SSH", "ssh"));
  if (words.empty()) words = {"ssh"};
  for (const char* option :
       {"-T", "-x", "-a", "-oBatchMode=yes", "-oClearAllForwardings=yes", "-oPermitLocalCommand=no",
        "-oRemoteCommand=none", "-oConnectTimeout=10", "-oServerAliveInterval=10",
        "-oServerAliveCountMax=3"}) {
    words.emplace_back(option);
  }
  if (address.port != 0) words.push_back(fmt::format("-p{}", address.port));
  words.emplace_back("--");
  words.push_back(address.user.empty() ? address.host : address.user + "@" + address.host);
  words.push_back(setting("RFORK_RFORKD", "rforkd") + " --stdio");
  return words;
}

struct Pipe {
  Pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) throw_errno("pipe2");
    reader.reset(ends[0]);
    writer.reset(ends[1]);
  }
  UniqueFd reader, writer;
};

/// Gives 0 or an errno. Descriptors 0, 1 and 2 are all that the new process has.
int spawn(std::vector<std::string> words, int in, int out, int err, pid_t& pid) {
  posix_spawn_file_actions_t files;
  posix_spawn_file_actions_init(&files);
  posix_spawn_file_actions_adddup2(&files, in, STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&files, out, STDOUT_FILENO);
  posix_spawn_file_actions_adddup2(&files, err, STDERR_FILENO);
  posix_spawn_file_actions_addclosefrom_np(&files, STDERR_FILENO + 1);
  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, all;
  sigemptyset(&none);
  sigfillset(&all);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &all);
  posix_spawnattr_setflags(&attributes,
                           POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  const int error = ::posix_spawnp(&pid, argv[0], &files, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&files);
  return error;
}

/// A pipe end that is not 0, 1 or 2: dup2() onto itself would leave it closed by exec.
UniqueFd above_standard(UniqueFd fd) {
  if (fd.get() > STDERR_FILENO) return fd;
  UniqueFd moved(::fcntl(fd.get(), F_DUPFD_CLOEXEC, STDERR_FILENO + 1));
  if (!moved) throw_errno("fcntl(F_DUPFD_CLOEXEC)");
  return moved;
}

/// The errno of what ssh says when it fails itself: it has one exit status for everything, and no
/// translations (OpenSSH's sshconnect.c and sshconnect2.c).
int errno_of_words(const std::string& said) {
  for (const char* text : {": Permission denied (", "Host key verification failed",
                           "Too many authentication failures", "No supported authentication"}) {
    if (said.find(text) != std::string::npos) return EACCES;
  }
  return EHOSTUNREACH;
}

/// What comes in place of a greeting, until one comes, nothing more does, or it has been enough.
struct Noise {
  size_t size = 0;
  bool greeting_follows = false;
  std::string first_line;
};

Noise read_noise(Connection& connection) {
  constexpr milliseconds kPatience{1'000};
  constexpr size_t kEnough = 64u << 10;
  const auto begin = connection.not_a_preface();
  std::vector<std::byte> bytes(begin.begin(), begin.end());
  const auto greeting = encode_preface({});
  const auto magic = std::span(greeting).first(kPrefaceMagicSize);
  auto found = bytes.end();
  const auto deadline = Clock::now() + kPatience;
  std::array<std::byte, 4096> buffer;
  try {
    while (bytes.size() < kEnough && Clock::now() < deadline) {
      found = std::search(bytes.begin(), bytes.end(), magic.begin(), magic.end());
      if (found != bytes.end()) break;
      const Io io = connection.try_read_bytes(buffer);
      if (io.state == Io::State::closed) break;
      if (io.state == Io::State::done) {
        bytes.insert(bytes.end(), buffer.begin(), buffer.begin() + static_cast<ptrdiff_t>(io.size));
      } else {
        pollfd input{connection.input(), POLLIN, 0};
        (void)::poll(&input, 1, 50);
      }
      found = bytes.end();
    }
  } catch (const Refusal&) {
    found = bytes.end();  // broken: what came is what there is
  }
  Noise noise{static_cast<size_t>(found - bytes.begin()), found != bytes.end(), ""};
  const std::string text(reinterpret_cast<const char*>(bytes.data()), noise.size);
  const auto lines = text.substr(std::min(text.find_first_not_of("\r\n"), text.size()));
  noise.first_line = visible(lines.substr(0, std::min<size_t>(lines.find_first_of("\r\n"), 60)));
  return noise;
}

}  // namespace

Ssh::Ssh(const Address& address) : where_(address.text()) {
  std::vector<std::string> words = command_line(address);
  program_ = words.front();
  Pipe to_ssh, from_ssh;
  const UniqueFd in = above_standard(std::move(to_ssh.reader));
  const UniqueFd out = above_standard(std::move(from_ssh.writer));
  messages_ = above_standard(make_memfd("rfork ssh"));
  // ssh's children may share it.
  if (::fcntl(messages_.get(), F_SETFL, O_APPEND) != 0) throw_errno("fcntl(O_APPEND)");
  const int error = spawn(std::move(words), in.get(), out.get(), messages_.get(), pid_);
  if (error != 0) {
    throw Refusal(Failure::connection_lost,
                  fmt::format("{}: {} can't be run: {}", where_, program_, strerror(error)),
                  error == ENOENT ? "install an ssh client, or name one in RFORK_SSH" : "");
  }
  input_ = std::move(from_ssh.reader);
  output_ = std::move(to_ssh.writer);
}

Ssh::~Ssh() {
  input_.reset();
  output_.reset();
  if (greeted_) {
    (void)wait_for_end(milliseconds(0));
  } else {
    end();
  }
}

Transport Ssh::take_transport() {
  return Transport(std::move(input_), std::move(output_));
}

std::optional<int> Ssh::wait_for_end(milliseconds patience) {
  constexpr milliseconds kLook{5};
  const auto deadline = Clock::now() + patience;
  while (!end_) {
    int status = 0;
    const pid_t ended = ::waitpid(pid_, &status, WNOHANG);
    if (ended == pid_) end_ = status;
    if (ended < 0 && errno != EINTR) end_ = -1;  // another waited for it
    if (end_ || Clock::now() >= deadline) break;
    std::this_thread::sleep_for(kLook);
  }
  return end_;
}

/// Its helpers (a ProxyCommand) are in its process group.
void Ssh::end() {
  constexpr milliseconds kPatience{500};
  if (wait_for_end(milliseconds(0))) return;
  ::kill(-pid_, SIGTERM);
  if (wait_for_end(kPatience)) return;
  ::kill(-pid_, SIGKILL);
  (void)wait_for_end(kPatience);
}

/// The last line on ssh's stderr; empty: none. ssh's own, or forwarded from there.
std::string Ssh::last_words() const {
  const off_t size = ::lseek(messages_.get(), 0, SEEK_END);
  std::string text(std::min<size_t>(size > 0 ? static_cast<size_t>(size) : 0, kMaxMessages), '\0');
  const ssize_t got =
      ::pread(messages_.get(), text.data(), text.size(), size - static_cast<off_t>(text.size()));
  text.resize(got > 0 ? static_cast<size_t>(got) : 0);
  const size_t last = text.find_last_not_of("\r\n \t");
  if (last == std::string::npos) return "";
  text.resize(last + 1);
  const size_t begin = text.find_last_of("\r\n");
  return visible(begin == std::string::npos ? text : text.substr(begin + 1));
}

void Ssh::explain_silence(const Refusal& lost, Connection& connection) {
  constexpr milliseconds kPatience{1'000};
  const auto lose = [&](std::string what, std::string advice = {}, int error = EHOSTUNREACH) {
    throw SshRefusal(error, where_ + what, std::move(advice));
  };
  const bool closed = connection.input_waiting();  // the end can be read: nobody speaks any more
  const Noise noise = connection.not_a_preface().empty() ? Noise{} : read_noise(connection);
  const std::optional<int> end =
      wait_for_end(closed || noise.size > 0 ? kPatience : milliseconds(0));
  const int code = end && WIFEXITED(*end) ? WEXITSTATUS(*end) : 0;
  const std::string said = last_words();
  if (code == kNotFound || code == kNotExecutable) {
    lose(fmt::format(" has no rforkd in its PATH ({})", said.empty() ? "exit 127" : said),
         "install it there, or name it in RFORK_RFORKD", ENOSYS);
  }
  if (noise.size > 0) {
    lose(fmt::format(" sent {} bytes of something else {}: '{}'", noise.size,
                     noise.greeting_follows ? "first" : "than rforkd's greeting", noise.first_line),
         "does a shell start-up file print there? it should for people only");
  }
  if (code == kOwnFailure || (!said.empty() && end)) {
    lose(fmt::format(": {}", said.empty() ? program_ + " failed and did not say why" : said), "",
         code == kOwnFailure ? errno_of_words(said) : EHOSTUNREACH);
  }
  if (!said.empty())
    lose(fmt::format(": {} ({} said: {})", lost.reasons().front().what, program_, said));
  throw lost;
}

void Ssh::explain_loss(const Refusal& lost) {
  constexpr milliseconds kPatience{200};
  (void)wait_for_end(kPatience);
  const std::string said = last_words();
  if (said.empty()) throw lost;
  throw Refusal(lost.failure(),
                fmt::format("{} ({} said: {})", lost.reasons().front().what, program_, said));
}

}  // namespace rfork::net
