// rfork-run: restores an image here: from a file, a pipe, or from behind itself (image/front.h).
#include <elf.h>
#include <fcntl.h>
#include <fmt/format.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <span>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/io.h"
#include "base/output_file.h"
#include "base/text.h"
#include "image/front.h"
#include "image/read_image.h"
#include "loader/restore.h"
#include "tools/program.h"

/// The ELF header of this program, in memory: the linker's.
extern "C" const Elf64_Ehdr __ehdr_start __attribute__((visibility("hidden")));  // NOLINT

namespace {

using namespace rfork;

std::atomic<bool> interrupted{false};

struct Arguments {
  std::string image;
  std::string name;  ///< of the image, for a person
  bool own = false;  ///< the image behind this program
  std::string pid_file;
  std::string pid_mode = "auto";
  bool background = false;
  bool ignore_cpu = false, overwrite_files = false, changed_files = false, drop_locks = false;
  bool drop_attributes = false, any_address = false;
  std::vector<int> drop_fds;
  bool json = false, verbose = false;
};

constexpr const char* kExamples = R"(Examples:
  rfork-run job.rfork                     goes on here, on this terminal, until it ends
  rfork-run -d --pidfile F job.rfork      in the background: 0 is /dev/null, 1 and 2 stay
                                          if they are files, else /dev/null
  rfork-trace 4242 -o - | ssh host rfork-run -
Exit codes: with -d 0 once it runs; else the process's own, or its signal. If it never ran:
  1 internal, 2 usage, 5 this host refuses, 8 no good image, 130 interrupted.)";

constexpr const char* kOwnExamples =
    R"(This program is a process that rfork-trace wrote into a file.
  {0}                          it goes on here, on this terminal, until it ends
  {0} -- -d --pidfile F        in the background: 0 is /dev/null, 1 and 2 stay
                               if they are files, else /dev/null
  rfork-dump {0}               what is in it
Exit codes: with -d 0 once it runs; else the process's own, or its signal. If it never ran:
  1 internal, 2 usage, 5 this host refuses, 8 no good image, 130 interrupted.)";

void add_options(CLI::App& app, Arguments& arguments) {
  if (!arguments.own) {
    app.add_option("IMAGE", arguments.image, "File that rfork-trace wrote (-: standard input)");
  }
  app.add_flag("-d,--detach", arguments.background, "Leave it running in the background");
  app.add_option("--pidfile", arguments.pid_file, "Write its pid into this file");
  app.add_option("--pid", arguments.pid_mode,
                 "keep: the pid it had, new: another one, auto: keep if possible")
      ->check(CLI::IsMember({"keep", "new", "auto"}));
  app.add_flag("--ignore-cpu", arguments.ignore_cpu,
               "Accept a CPU that lacks what the origin's has");
  app.add_flag("--overwrite-files", arguments.overwrite_files,
               "Replace files here that have other contents");
  app.add_flag("--changed-files", arguments.changed_files,
               "Take open files as they are here by now");
  app.add_flag("--drop-locks", arguments.drop_locks,
               "Go on without file locks that others hold here");
  app.add_flag("--drop-attributes", arguments.drop_attributes,
               "Go on without what needs privileges that are missing here");
  app.add_option("--drop-fd", arguments.drop_fds, "Go on without descriptor N (may be repeated)")
      ->type_name("N")
      ->allow_extra_args(false);
  app.add_flag("--any-address", arguments.any_address,
               "Sockets whose address isn't here get any of this host's");
  app.add_flag("--json", arguments.json, "One line of JSON (with -d on stdout, else on stderr)");
  app.add_flag("-v,--verbose", arguments.verbose, "Say more");
  app.set_version_flag("--version", "rfork-run " RFORK_VERSION);
  app.footer(arguments.own ? fmt::format(kOwnExamples, arguments.name) : kExamples);
}

/// With an image behind this program: drops the `--` of `FILE -- OPTION...`. False when words stand
/// before it, which somebody could take for arguments of the process; its own are in the image.
bool drop_separator(int& argc, char**& argv) {
  if (argc < 2) return true;
  const bool there = std::string_view(argv[1]) == "--";
  argc = there ? argc - 1 : 1;
  argv[1] = argv[0];
  ++argv;
  return there;
}

/// The first SIGINT or SIGTERM is noticed between two reads, so that created files are removed; the
/// second ends at once.
void watch_interruptions() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted = true; };
  action.sa_flags = static_cast<int>(SA_RESETHAND);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
}

void unwatch_interruptions() {
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::signal(signal, SIG_DFL);
}

loader::Options restore_options(const Arguments& arguments) {
  loader::Options options;
  if (arguments.pid_mode == "keep") options.pid_mode = loader::PidMode::keep;
  if (arguments.pid_mode == "new") options.pid_mode = loader::PidMode::fresh;
  options.ignore_cpu = arguments.ignore_cpu;
  options.overwrite_files = arguments.overwrite_files;
  options.changed_files = arguments.changed_files;
  options.drop_locks = arguments.drop_locks;
  options.drop_attributes = arguments.drop_attributes;
  options.any_address = arguments.any_address;
  options.foreground = !arguments.background;
  options.as_image_user = true;
  options.take_held = true;
  // In the background a pipe isn't kept: who reads it (a shell's $(...), ssh) would wait for the
  // child.
  const auto usable = [&](int fd) {
    struct stat status;
    return ::fstat(fd, &status) == 0 && (!arguments.background || S_ISREG(status.st_mode));
  };
  if (!arguments.background && arguments.image != "-" && usable(STDIN_FILENO))
    options.stdio_input = STDIN_FILENO;
  if (usable(STDOUT_FILENO)) options.stdio_output = STDOUT_FILENO;
  if (usable(STDERR_FILENO)) options.stdio_error = STDERR_FILENO;
  return options;
}

void say_running(const Arguments& arguments, const loader::Restore& restore, pid_t pid,
                 uint64_t bytes, int64_t elapsed_ns) {
  if (arguments.json) {
    const nlohmann::json result = {{"pid", pid},
                                   {"inner_pid", restore.inner_pid()},
                                   {"image_bytes", bytes},
                                   {"total_ns", elapsed_ns},
                                   {"warnings", restore.warnings()}};
    std::fputs((result.dump() + "\n").c_str(), arguments.background ? stdout : stderr);
    std::fflush(stdout);
    return;
  }
  for (const std::string& warning : restore.warnings()) {
    std::fputs(fmt::format("rfork-run: note: {}\n", warning).c_str(), stderr);
  }
  if (arguments.verbose) {
    std::fputs(fmt::format("rfork-run: {} in {}, pid {} (it sees {})\n", human_bytes(bytes),
                           human_duration_ns(elapsed_ns), pid, restore.inner_pid())
                   .c_str(),
               stderr);
  }
  if (arguments.background) {
    std::puts(fmt::format("pid {}", pid).c_str());
    std::fflush(stdout);
  }
}

/// Whether somebody at a terminal would otherwise wait for a job that has stopped.
bool on_own_terminal() {
  return ::isatty(STDIN_FILENO) == 1 && ::tcgetpgrp(STDIN_FILENO) == ::getpgrp();
}

/// Passes on what is sent to this process alone. What a terminal sends reaches the child by itself,
/// for it is in the same process group; SIGTSTP stops both.
[[noreturn]] void stand_for(loader::Restore& restore, pid_t child) {
  sigset_t watched;
  ::sigfillset(&watched);
  for (const int signal : {SIGTSTP, SIGTTIN, SIGTTOU, SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT}) {
    ::sigdelset(&watched, signal);
  }
  ::sigprocmask(SIG_BLOCK, &watched, nullptr);
  for (;;) {
    int status = 0;
    const pid_t changed = ::waitpid(restore.wait_pid(), &status, WNOHANG | WUNTRACED);
    if (changed == restore.wait_pid()) {
      if (!WIFSTOPPED(status)) loader::end_as(restore.child_end(status));
      if (on_own_terminal()) ::raise(SIGSTOP);
      continue;
    }
    siginfo_t info{};
    const int signal = ::sigwaitinfo(&watched, &info);
    if (signal <= 0 || signal == SIGCHLD) continue;
    if (signal == SIGCONT || info.si_code <= 0) ::kill(child, signal);
  }
}

void check_interrupted() {
  if (interrupted) throw Refusal(Failure::interrupted, "interrupted; nothing was restored");
}

/// The image without the descriptors whose loss is accepted.
image::Metadata without(image::Metadata metadata, const std::vector<int>& drop_fds) {
  for (image::Process& process : metadata.snapshot.processes) {
    std::erase_if(process.descriptors, [&](const image::Descriptor& descriptor) {
      return std::ranges::find(drop_fds, descriptor.fd) != drop_fds.end();
    });
  }
  return metadata;
}

int run(const Arguments& arguments) {
  if (arguments.image.empty()) {
    throw Refusal(Failure::usage, "name an IMAGE", "see rfork-run --help");
  }
  const int64_t begin = clock_ns(CLOCK_MONOTONIC);
  watch_interruptions();
  UniqueFd file;
  if (arguments.image != "-") {
    file = try_open(arguments.image, O_RDONLY);
    if (!file) throw Error("open", errno, arguments.name, Failure::bad_image);
  }
  image::ImageReader reader(file ? file.get() : STDIN_FILENO,
                            file ? arguments.name : "standard input");
  std::optional<image::Metadata> reduced;
  if (!arguments.drop_fds.empty()) reduced = without(reader.metadata(), arguments.drop_fds);
  loader::Restore restore(reduced ? *reduced : reader.metadata(), restore_options(arguments));
  restore.start();
  for (;;) {
    check_interrupted();
    const size_t size = reader.read(restore.next_slot());
    if (size == 0) break;
    restore.submit(size);
  }
  reader.finish();
  check_interrupted();
  const pid_t pid = restore.wait_ready();
  std::optional<OutputFile> pid_file;  // its name appears when the child runs
  if (!arguments.pid_file.empty()) {
    pid_file.emplace(arguments.pid_file, 0644);
    pid_file->write(as_bytes(fmt::format("{}\n", pid)));
  }
  check_interrupted();
  unwatch_interruptions();
  restore.go();
  if (pid_file) pid_file->finish();
  say_running(arguments, restore, pid, reader.metadata().total_size,
              clock_ns(CLOCK_MONOTONIC) - begin);
  if (!arguments.background) stand_for(restore, pid);
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  arguments.own = image::is_front(std::as_bytes(std::span(&__ehdr_start, 1)));
  bool understood = true;
  if (arguments.own) {
    arguments.image = "/proc/self/exe";
    arguments.name = argc > 0 ? argv[0] : "rfork-run";
    understood = drop_separator(argc, argv);
  }
  CLI::App app("Goes on with a process that rfork-trace wrote into an image.");
  if (arguments.own) app.name(arguments.name + " --");
  add_options(app, arguments);
  return run_program("rfork-run", app, argc, argv, arguments.json, [&] {
    if (!understood) {
      throw Refusal(Failure::usage, "options stand behind --",
                    fmt::format("see {} -- --help", arguments.name));
    }
    if (!arguments.own) arguments.name = arguments.image;
    return run(arguments);
  });
}
