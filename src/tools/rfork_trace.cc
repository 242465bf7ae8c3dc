// rfork-trace: copies or moves a running process onto another host, or into a file.
#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>

#include "base/error.h"
#include "base/io.h"
#include "base/text.h"
#include "session/attach.h"
#include "session/check_process.h"
#include "session/connection_holder.h"
#include "session/save_image.h"
#include "session/send_process.h"
#include "tools/caller_report.h"
#include "tools/check_output.h"
#include "tools/loader_program.h"
#include "tools/program.h"

namespace {

using namespace rfork;

std::atomic<bool> interrupted_by_signal{false};
CallerStage stage;

struct Arguments {
  pid_t pid = 0;
  std::string host;
  std::string output;
  std::string key;
  std::string spool;
  std::string pid_mode = "auto";
  std::vector<int> drop_fds;
  bool check = false, exec = false;
  bool move = false, thin = false, no_ghost = false, attach = false;
  bool drop_locks = false, drop_timers = false, drop_attributes = false, leave_children = false;
  bool drop_connections = false, drop_ipc = false, own_segments = false;
  bool ignore_cpu = false, overwrite_files = false, changed_files = false;
  bool any_address = false, keep_tcp = false;
  bool json = false, verbose = false;
  // From rfork/rfork.h.
  int report = -1;
  int process_from = -1;  ///< a pipe that brings the pid once the report has asked for it
  uint64_t role = 0;
  uint32_t role_value = 0;
  uint64_t blocked = ~uint64_t{0};  ///< signals that the caller had blocked: bit N - 1
  int time_limit_ms = 0;
  bool as_fork = false, input = false;
  uint32_t linger_s = 30;
};

constexpr const char* kExamples = R"(Examples:
  rfork-trace --key key 4242 10.0.0.2          a copy of 4242 runs on 10.0.0.2 too
  rfork-trace --key key --move 4242 10.0.0.2   it runs on 10.0.0.2 only
  rfork-trace 4242 ssh:ada@host-b              through ssh, without daemon or key
  rfork-trace 4242 -o job.rfork                into a file; `rfork-run job.rfork` goes on from there
  rfork-trace 4242 -o job --exec               into a program; `./job` goes on, on any host
  rfork-trace 4242 -o - | ssh host rfork-run -
  rfork-trace --check --move 4242 10.0.0.2     what would become of it there; nothing is done
Exit codes: 0 done, 2 usage, 3 cannot trace, 4 cannot carry, 5 destination refused,
  6 connection lost (the original goes on), 7 in doubt (it stays stopped), 130 interrupted.)";

/// What rfork/rfork.h says, and no person: not in the help.
void add_options_of_header(CLI::App& app, Arguments& arguments) {
  app.add_option("--report", arguments.report)->group("");
  app.add_option("--process-from", arguments.process_from)->group("");
  app.add_option("--blocked", arguments.blocked)->group("");
  app.add_option("--role", arguments.role)->group("");
  app.add_option("--role-value", arguments.role_value)->group("");
  app.add_option("--time-limit", arguments.time_limit_ms)->group("");
  app.add_flag("--as-fork", arguments.as_fork)->group("");
  app.add_flag("--input", arguments.input)->group("");
}

void add_options(CLI::App& app, Arguments& arguments) {
  app.add_option("PID", arguments.pid, "The process");
  app.add_option("HOST", arguments.host, "HOST[:PORT] of an rforkd, or ssh:USER@HOST");
  app.add_option("-o,--output", arguments.output,
                 "Write an image to this file instead (-: standard output)");
  app.add_flag("--check", arguments.check,
               "Do nothing, say what would be carried, changed and refused");
  app.add_flag("--exec", arguments.exec,
               "With -o: the file runs by itself, on hosts without rfork too");
  app.add_flag("--move", arguments.move,
               "The original ends when the child runs, or the file is complete");
  app.add_flag("--no-ghost", arguments.no_ghost,
               "With --move: keep no process here for the original's parent");
  app.add_flag("--attach", arguments.attach,
               "Of a copy: stay, show its output, pass signals on, end as it does");
  app.add_option("--linger", arguments.linger_s,
                 "Seconds that a lost connection to the child may take to come back; 30")
      ->type_name("S")
      ->check(CLI::Range(0, 86'400));
  app.add_option("--key", arguments.key, "File with the key that both hosts share")
      ->envname("RFORK_KEY");
  app.add_option("--spool", arguments.spool,
                 "Directory that both hosts see: the image goes through it")
      ->type_name("DIR");
  app.add_option("--pid", arguments.pid_mode,
                 "keep: the same pid there, new: another one, auto: keep on a move")
      ->check(CLI::IsMember({"keep", "new", "auto"}));
  app.add_option("--drop-fd", arguments.drop_fds, "Go on without descriptor N (may be repeated)")
      ->type_name("N")
      ->allow_extra_args(false);
  app.add_flag("--drop-locks", arguments.drop_locks, "Go on without file locks and leases");
  app.add_flag("--drop-timers", arguments.drop_timers, "Go on without POSIX timers");
  app.add_flag("--drop-attributes", arguments.drop_attributes,
               "Go on without what needs privileges that are missing there");
  app.add_flag("--drop-connections", arguments.drop_connections,
               "With --move: connections that nobody has accepted yet break");
  app.add_flag("--keep-tcp", arguments.keep_tcp,
               "With --move: TCP connections go on, with their address");
  app.add_flag("--any-address", arguments.any_address,
               "Sockets whose address isn't there get any of that host's");
  app.add_flag("--leave-children", arguments.leave_children,
               "Go on without the process's children");
  app.add_flag("--drop-ipc", arguments.drop_ipc,
               "Go on without SysV semaphores and message queues");
  app.add_flag("--own-segments", arguments.own_segments,
               "Go on with a copy of SysV segments that other processes have too");
  app.add_flag("--thin", arguments.thin,
               "Leave out what named files hold; the destination must have them");
  app.add_flag("--ignore-cpu", arguments.ignore_cpu, "Accept a CPU that lacks what this one has");
  app.add_flag("--overwrite-files", arguments.overwrite_files,
               "Replace files there that have other contents");
  app.add_flag("--changed-files", arguments.changed_files,
               "Take open files as they are there by now");
  app.add_flag("--json", arguments.json, "The result as one line of JSON on standard output");
  app.add_flag("-v,--verbose", arguments.verbose, "Say what differs there, and more figures");
  add_options_of_header(app, arguments);
  app.set_version_flag("--version", "rfork-trace " RFORK_VERSION);
  app.footer(kExamples);
}

void check(const Arguments& arguments) {
  const auto usage = [](std::string what, std::string advice) {
    throw Refusal(Failure::usage, std::move(what), std::move(advice));
  };
  // Not CLI11's to require: it would say so of every misspelt option.
  if (arguments.pid == 0 && arguments.process_from < 0)
    usage("no process is named", "rfork-trace PID HOST, or see --help");
  if (arguments.pid < 0)
    usage(fmt::format("{} is no pid", arguments.pid), "name a running process");
  const bool nowhere = arguments.host.empty() && arguments.output.empty();
  if (nowhere ? !arguments.check : !arguments.host.empty() && !arguments.output.empty()) {
    usage("name either a HOST or a file with -o", "see rfork-trace --help");
  }
  if (!arguments.spool.empty() && arguments.host.empty()) {
    usage("--spool is a way to a HOST", "leave it out; -o FILE may be in any directory");
  }
  if (arguments.exec && arguments.output.empty()) {
    usage("--exec makes a file", "add -o FILE");
  }
  if (arguments.check && (arguments.attach || arguments.report >= 0)) {
    usage("--check makes no copy that could be attended to", "leave --attach out");
  }
  if (arguments.attach && (arguments.move || arguments.host.empty())) {
    usage("--attach is for a copy on another host", "a move leaves a ghost by itself");
  }
  if (arguments.attach && arguments.host.starts_with("ssh:")) {
    usage("--attach needs an rforkd that stays, and over ssh it ends",
          "run rforkd there, or use --move, which leaves a ghost");
  }
  if (arguments.keep_tcp && !arguments.move) {
    usage("--keep-tcp is for a move: the original of a copy uses its connections itself",
          "add --move");
  }
  if (arguments.output == "-" && arguments.move) {
    usage("--move can't be done into a pipe: nobody would know whether the other end got it all",
          "write a file, or name a HOST");
  }
  if (arguments.output == "-" && !arguments.check && ::isatty(STDOUT_FILENO) == 1) {
    usage("an image can't be written to a terminal", "pipe it on, or name a file");
  }
}

loader::PidMode pid_mode(const Arguments& arguments) {
  if (arguments.as_fork) return loader::PidMode::fresh;
  if (arguments.pid_mode == "keep") return loader::PidMode::keep;
  if (arguments.pid_mode == "new") return loader::PidMode::fresh;
  return arguments.move ? loader::PidMode::automatic : loader::PidMode::fresh;
}

std::function<bool()> out_of_time(const Arguments& arguments) {
  if (arguments.time_limit_ms <= 0) return [] { return false; };
  const auto end =
      std::chrono::steady_clock::now() + std::chrono::milliseconds(arguments.time_limit_ms);
  return [end] {
    if (std::chrono::steady_clock::now() > end) stage.out_of_time = true;
    return stage.out_of_time;
  };
}

std::function<bool()> was_interrupted(const Arguments& arguments) {
  return [late = out_of_time(arguments)] { return late() || interrupted_by_signal.load(); };
}

tracer::Options capture_options(const Arguments& arguments) {
  tracer::Options options;
  options.move = arguments.move || arguments.as_fork;
  options.into_file = !arguments.output.empty();
  options.drop_fds = {arguments.drop_fds.begin(), arguments.drop_fds.end()};
  options.thin = arguments.thin;
  options.drop_locks = arguments.drop_locks;
  options.drop_timers = arguments.drop_timers;
  options.drop_attributes = arguments.drop_attributes;
  options.leave_children = arguments.leave_children;
  options.drop_connections = arguments.drop_connections;
  options.drop_ipc = arguments.drop_ipc;
  options.own_segments = arguments.own_segments;
  options.keep_tcp = arguments.keep_tcp;
  if (arguments.role != 0) {
    const auto value = std::as_bytes(std::span(&arguments.role_value, 1));
    options.patches.push_back({arguments.role, {value.begin(), value.end()}});
    options.leave_children = true;  // the one that is on its way to be this program
  }
  // As after fork(2): the child has none of its parent's locks and timers, and connections that
  // wait stay the parent's.
  if (arguments.as_fork) {
    options.drop_locks = options.drop_timers = options.drop_connections = options.forked = true;
  }
  options.interrupted = was_interrupted(arguments);
  return options;
}

void tell_of_holder(const session::Saved& saved) {
  std::string numbers;
  for (const int fd : saved.kept_fds) {
    numbers += fmt::format("{} {}", numbers.empty() ? " of descriptor" : ",", fd);
  }
  std::fputs(
      fmt::format("rfork-trace: note: process {} holds the TCP connections{} until rfork-run "
                  "takes them on; to end it breaks them\n",
                  saved.holder, numbers)
          .c_str(),
      stderr);
}

void save(const Arguments& arguments) {
  tools::LoaderFront front;
  if (arguments.exec) front = tools::loader_front();
  if (front.needs_libraries) {
    std::fputs(fmt::format("rfork-trace: note: {} needs shared libraries, and so will {}\n",
                           front.program, arguments.output)
                   .c_str(),
               stderr);
  }
  const session::Saved saved =
      session::save_image(arguments.pid, capture_options(arguments), arguments.output, front.bytes);
  if (arguments.json) {
    nlohmann::json result = {{"pid", arguments.pid},         {"file", arguments.output},
                             {"moved", arguments.move},      {"image_bytes", saved.image_bytes},
                             {"paused_ns", saved.paused_ns}, {"total_ns", saved.total_ns}};
    if (saved.holder != 0) result["holder_pid"] = saved.holder;
    if (!saved.warnings.empty()) result["warnings"] = saved.warnings;
    std::fputs((result.dump() + "\n").c_str(), arguments.output == "-" ? stderr : stdout);
    return;
  }
  for (const std::string& warning : saved.warnings) {
    std::fputs(fmt::format("rfork-trace: note: {}\n", warning).c_str(), stderr);
  }
  std::fputs(fmt::format("{} → {}, {} in {}, paused {}\n", arguments.pid, arguments.output,
                         human_bytes(saved.image_bytes), human_duration_ns(saved.total_ns),
                         human_duration_ns(saved.paused_ns))
                 .c_str(),
             stderr);
  if (saved.holder != 0) tell_of_holder(saved);
}

std::string joined(const std::vector<std::string>& words) {
  std::string all;
  for (const std::string& word : words) all += (all.empty() ? "" : ", ") + word;
  return all;
}

void tell_of_silence(const session::Sent& sent, const std::string& host) {
  std::fputs(
      fmt::format("rfork-trace: note: the TCP connections of {} go on at {} when it has that "
                  "address: move it there now. Process {} keeps this host silent for them "
                  "until it has gone from here\n",
                  joined(sent.addresses), host, sent.silence_pid)
          .c_str(),
      stderr);
}

/// Whether the process has a parent that may want to know of its end: not init.
bool somebody_waits_for(pid_t pid) {
  const auto stat = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/stat", pid));
  const size_t name_end = stat ? stat->rfind(')') : std::string::npos;
  if (name_end == std::string::npos) return false;
  return std::atoi(stat->c_str() + name_end + 4) > 1;  // ") S 4711"
}

void tell(const Arguments& arguments, const session::Sent& sent) {
  if (arguments.json) {
    nlohmann::json result = {{"pid", arguments.pid},
                             {"host", arguments.host},
                             {"moved", arguments.move},
                             {"child_pid", sent.pid},
                             {"child_id", sent.child_id},
                             {"wire_bytes", sent.wire_bytes},
                             {"image_bytes", sent.image_bytes},
                             {"paused_ns", sent.paused_ns},
                             {"total_ns", sent.total_ns},
                             {"warnings", sent.warnings}};
    if (sent.silence_pid != 0) {
      result["silence_pid"] = sent.silence_pid;
      result["addresses"] = sent.addresses;
    }
    std::puts(result.dump().c_str());
    std::fflush(stdout);
    return;
  }
  for (const std::string& warning : sent.warnings) {
    std::fputs(fmt::format("rfork-trace: note: {}\n", warning).c_str(), stderr);
  }
  if (sent.silence_pid != 0) tell_of_silence(sent, arguments.host);
  const std::string amount =
      sent.spool.empty() ? human_bytes(sent.wire_bytes)
                         : fmt::format("{} through {}", human_bytes(sent.image_bytes), sent.spool);
  std::fputs(
      fmt::format("{} → {} pid {}, {} in {}, paused {}\n", arguments.pid, arguments.host, sent.pid,
                  amount, human_duration_ns(sent.total_ns), human_duration_ns(sent.paused_ns))
          .c_str(),
      stderr);
  if (arguments.verbose) {
    std::fputs(fmt::format("child {} on {}, image of {}\n", sent.child_id, sent.destination,
                           human_bytes(sent.image_bytes))
                   .c_str(),
               stderr);
  }
}

/// Never comes back: ends as the copy does.
[[noreturn]] void stand_for(const session::Endpoint& endpoint, const std::string& child_id,
                            uint32_t linger_s) {
  session::AttachOptions options;
  options.linger = std::chrono::seconds(linger_s);
  options.output = [](auto bytes) { write_full(STDOUT_FILENO, bytes, "standard output"); };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGPIPE}) ::signal(signal, SIG_DFL);
  loader::end_as(session::attach(endpoint, child_id, options).end);
}

/// The environment's is for rfork(), and says nothing against -o.
std::string spool(const Arguments& arguments) {
  const char* const from_environment = std::getenv("RFORK_SPOOL");
  if (!arguments.spool.empty() || from_environment == nullptr) return arguments.spool;
  return from_environment;
}

session::Endpoint endpoint_of(const Arguments& arguments) {
  session::Endpoint endpoint;
  endpoint.address = net::parse_address(arguments.host);
  if (!arguments.key.empty()) endpoint.key = net::load_key(arguments.key);
  endpoint.interrupted = was_interrupted(arguments);
  return endpoint;
}

/// The fork that waits for us, made by now.
pid_t forked_process(const Arguments& arguments) {
  report_to_caller(arguments.report, kReadyForFork, "");
  const UniqueFd pipe(arguments.process_from);
  int32_t pid = 0;
  if (read_full(pipe.get(), std::as_writable_bytes(std::span(&pid, 1)), "the caller's pipe") <
      sizeof pid) {
    throw Refusal(Failure::interrupted, "the caller has made no process");
  }
  return pid;
}

session::SendOptions send_options(const Arguments& arguments) {
  session::SendOptions options;
  options.capture = capture_options(arguments);
  options.spool = arguments.host.empty() ? "" : spool(arguments);
  options.pid_mode = pid_mode(arguments);
  options.ignore_cpu = arguments.ignore_cpu;
  options.overwrite_files = arguments.overwrite_files;
  options.changed_files = arguments.changed_files;
  options.any_address = arguments.any_address;
  const bool asked = arguments.report >= 0;  // by the process itself
  options.ghost = options.capture.move && arguments.output.empty() && !arguments.no_ghost &&
                  (asked || somebody_waits_for(arguments.pid));
  options.capture.relay = options.ghost;
  options.linger_s = arguments.linger_s;
  options.shares_with_parent = arguments.as_fork;
  options.capture.relay_input = options.ghost && (!arguments.as_fork || arguments.input);
  options.connected = [] { stage.connected = true; };
  if (arguments.process_from >= 0) {
    options.process = [&arguments] { return forked_process(arguments); };
  }
  // Nothing is lost with a fork that may run there unknown: it has no ghost, and gets SIGHUP.
  if (arguments.as_fork) options.given_up = out_of_time(arguments);
  return options;
}

void send(const Arguments& arguments) {
  const session::Endpoint endpoint = endpoint_of(arguments);
  const session::Sent sent =
      session::send_process(arguments.pid, endpoint, send_options(arguments));
  if (arguments.report >= 0) return;
  tell(arguments, sent);
  if (arguments.attach) stand_for(endpoint, sent.child_id, arguments.linger_s);
}

int look_only(const Arguments& arguments) {
  session::CheckOptions options;
  options.send = send_options(arguments);
  options.output = arguments.output;
  if (!arguments.host.empty()) options.endpoint = endpoint_of(arguments);
  if (arguments.exec) (void)tools::loader_front();
  const CheckQuestion question{arguments.host + arguments.output, arguments.move,
                               !arguments.output.empty()};
  const session::CheckReport report = session::check_process(arguments.pid, options);
  const std::string text =
      arguments.json ? check_json(report, question)
                               .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) +
                           '\n'
                     : check_text(report, question);
  write_full(STDOUT_FILENO, as_bytes(text), "standard output");
  return exit_code(report);
}

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted_by_signal = true; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  ::signal(SIGXFSZ, SIG_IGN);  // a file that may not grow is an error like a full disk
}

int work(const Arguments& arguments) {
  check(arguments);
  catch_signals();
  if (arguments.check) return look_only(arguments);
  if (arguments.output.empty()) {
    send(arguments);
  } else {
    save(arguments);
  }
  return 0;
}

std::string why_no_child(const Arguments& arguments, const std::exception& error) {
  if (!stage.out_of_time) return sentence_of(error);
  return fmt::format("{}: it took longer than {} ms",
                     arguments.host.empty() ? arguments.output : arguments.host,
                     arguments.time_limit_ms);
}

/// The header has blocked all signals. Those that come from a terminal or a shell are for the
/// group, and end the call too; but not those that the caller ignores, or had blocked.
void unblock_signals(uint64_t blocked_by_caller) {
  sigset_t heard;
  sigemptyset(&heard);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
    struct sigaction action {};
    const bool ignored = ::sigaction(signal, nullptr, &action) == 0 && action.sa_handler == SIG_IGN;
    if (!ignored && (blocked_by_caller >> (signal - 1) & 1) == 0) sigaddset(&heard, signal);
  }
  catch_signals();
  ::sigprocmask(SIG_UNBLOCK, &heard, nullptr);
}

/// A pipe may be standard output or error where the caller has closed its own.
void keep_above_standard(int& fd) {
  if (fd < 0 || fd > STDERR_FILENO) return;
  const int moved = ::fcntl(fd, F_DUPFD_CLOEXEC, STDERR_FILENO + 1);
  if (moved < 0) return;
  ::close(fd);
  fd = moved;
}

/// So that nothing else becomes descriptor `fd`, and what is written there goes nowhere.
void open_null_as(int fd) {
  int null = ::open("/dev/null", O_RDWR);
  if (null < 0) null = ::open("/", O_PATH);  // a root without /dev: writes fail
  if (null < 0 || null == fd) return;
  ::dup2(null, fd);
  ::close(null);
}

/// What the caller has open is open here, too: as soon as it knows of its child, a pipe that the
/// child has left must be at its end.
void let_go_of_all_but(int fd) {
  if (fd > 0) ::close_range(0, static_cast<unsigned>(fd) - 1, 0);
  ::close_range(static_cast<unsigned>(fd) + 1, ~0u, 0);
}

/// The caller hears what became of it, and its terminal nothing.
int work_for_caller(Arguments& arguments) {
  keep_above_standard(arguments.report);
  keep_above_standard(arguments.process_from);
  for (const int fd : {STDIN_FILENO, STDOUT_FILENO, STDERR_FILENO}) {
    if (fd == STDERR_FILENO || ::fcntl(fd, F_GETFD) < 0) open_null_as(fd);
  }
  try {
    unblock_signals(arguments.blocked);
    check_own_limits(!arguments.key.empty());
    work(arguments);
    let_go_of_all_but(arguments.report);
    report_to_caller(arguments.report, 0, "");
    return 0;
  } catch (const std::exception& error) {
    report_to_caller(arguments.report, errno_of(error, stage), why_no_child(arguments, error));
    return 1;
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (session::is_connection_holder(argc, argv)) return session::hold_connections();
  Arguments arguments;
  CLI::App app(
      "Copies or moves a running process onto another host, or writes its image to a file.");
  add_options(app, arguments);
  return run_program("rfork-trace", app, argc, argv, arguments.json, [&] {
    if (arguments.report >= 0) return work_for_caller(arguments);
    return work(arguments);
  });
}
