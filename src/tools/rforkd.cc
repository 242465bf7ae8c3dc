// rforkd: the destination's daemon. Receives processes, restores them, and looks after them.
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "net/address.h"
#include "net/key.h"
#include "session/daemon.h"
#include "session/spool.h"
#include "tools/program.h"

namespace {

using namespace rfork;

struct Arguments {
  std::vector<std::string> listen;
  bool stdio = false;
  std::string key;
  std::string make_key;
  std::vector<std::string> allow_users;
  bool allow_root = false;
  std::string spool;
  std::string state;
  std::string port_file;
  std::vector<std::string> notify;
};

constexpr const char* kExamples = R"(Examples:
  rforkd --make-key key                         once; copy the file to the other hosts
  rforkd --listen 10.0.0.2:7411 --key key       takes processes from whoever has the key
  rforkd --key key --listen :: --allow-user ada   as root: runs ada's processes as ada
  rforkd                                        127.0.0.1:7411, for this user on this host only
  rforkd --key key --listen :: --notify 10.0.0.9:7412   tells a monitor there what happens
  rforkd --stdio                                what `rfork-trace PID ssh:USER@HOST` runs there
Children outlive the daemon. Whoever has the key can run anything as the users allowed here.
Exit codes: 0 ended by SIGTERM, SIGINT or SIGHUP, 1 internal, 2 usage, address or key file.)";

void add_options(CLI::App& app, Arguments& arguments) {
  app.add_option("--listen", arguments.listen,
                 "ADDRESS[:PORT], may be repeated; default 127.0.0.1:7411; port 0: any")
      ->type_name("ADDR");
  app.add_flag("--stdio", arguments.stdio,
               "Serve one connection on standard input and output, as ssh starts it");
  app.add_option("--key", arguments.key, "File with the key that both hosts share")
      ->envname("RFORK_KEY");
  app.add_option("--make-key", arguments.make_key, "Write a new key to this file, and end");
  app.add_option("--allow-user", arguments.allow_users,
                 "As root: run children that were this user's (may be repeated)")
      ->type_name("NAME");
  app.add_flag("--allow-root", arguments.allow_root, "As root: run root's children as root");
  app.add_option("--spool", arguments.spool,
                 "Directory that origins see too: their images may come through it")
      ->type_name("DIR");
  app.add_option("--state", arguments.state,
                 "Directory for the children's output; default /var/lib/rforkd for root,\n"
                 "else $XDG_STATE_HOME/rforkd or ~/.local/state/rforkd");
  app.add_option("--port-file", arguments.port_file, "Write the port of the first ADDR here");
  app.add_option("--notify", arguments.notify,
                 "Send events to `rforkctl monitor` at ADDR:PORT (may be repeated)")
      ->type_name("ADDR:PORT");
  app.set_version_flag("--version", "rforkd " RFORK_VERSION);
  app.footer(kExamples);
}

/// The key of the environment is meant for a daemon that listens.
bool key_on_command_line(const Arguments& arguments) {
  const char* const key = std::getenv("RFORK_KEY");
  return !arguments.key.empty() && (key == nullptr || arguments.key != key);
}

session::DaemonOptions stdio_options(const Arguments& arguments) {
  if (!arguments.listen.empty() || !arguments.port_file.empty() || key_on_command_line(arguments)) {
    throw Refusal(Failure::usage, "--stdio listens nowhere and needs no key",
                  "leave --listen, --port-file and --key out");
  }
  if (::isatty(STDIN_FILENO) == 1) {
    throw Refusal(Failure::usage, "--stdio speaks with a program, and standard input is a terminal",
                  "`rfork-trace PID ssh:USER@HOST` runs it through ssh");
  }
  session::DaemonOptions options;
  options.stdio = true;
  options.users.allow_all = true;
  return options;
}

session::DaemonOptions listening_options(const Arguments& arguments) {
  session::DaemonOptions options;
  if (!arguments.key.empty()) options.key = net::load_key(arguments.key);
  for (const std::string& text : arguments.listen) {
    options.listen.push_back(net::parse_address(text, net::PortRule::bindable));
  }
  if (options.listen.empty()) options.listen.push_back({"127.0.0.1", net::kDefaultPort});
  options.users.allowed_users = {arguments.allow_users.begin(), arguments.allow_users.end()};
  options.users.allow_root = arguments.allow_root;
  options.port_file = arguments.port_file;
  return options;
}

session::DaemonOptions daemon_options(const Arguments& arguments) {
  session::DaemonOptions options =
      arguments.stdio ? stdio_options(arguments) : listening_options(arguments);
  for (const std::string& text : arguments.notify) {
    options.notify.push_back(net::parse_address(text, net::PortRule::required));
  }
  if (!arguments.spool.empty()) {
    session::check_spool(arguments.spool);
    options.spool = std::filesystem::absolute(arguments.spool);
  }
  if (!arguments.state.empty()) options.state_dir = std::filesystem::absolute(arguments.state);
  return options;
}

/// One line an event on stderr. Without threads: workers are forked from here. Over ssh stderr is
/// for what went wrong.
void set_up_log(bool stdio) {
  auto logger = spdlog::stderr_logger_st("rforkd");
  logger->set_pattern("%Y-%m-%d %H:%M:%S.%e rforkd[%P] %l: %v");
  logger->flush_on(spdlog::level::trace);
  if (stdio) logger->set_level(spdlog::level::warn);
  spdlog::set_default_logger(std::move(logger));
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app(
      "Receives running processes from other hosts, restores them here and looks after them.");
  add_options(app, arguments);
  return run_program("rforkd", app, argc, argv, false, [&] {
    if (!arguments.make_key.empty()) {
      net::make_key_file(arguments.make_key);
      return 0;
    }
    set_up_log(arguments.stdio);
    session::run_daemon(daemon_options(arguments));
    return 0;
  });
}
