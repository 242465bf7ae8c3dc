// rforkctl: what a person asks a daemon about its children.
#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/io.h"
#include "net/address.h"
#include "net/key.h"
#include "session/attach.h"
#include "session/control.h"
#include "tools/child_table.h"
#include "tools/event_output.h"
#include "tools/program.h"

namespace {

using namespace rfork;
using nlohmann::json;

std::atomic<bool> interrupted_by_signal{false};

struct Arguments {
  std::string host;
  std::string key;
  bool as_json = false;
  std::string id;
  bool follow = false;
  std::string signal = "TERM";
  std::string port;
};

constexpr const char* kExamples = R"(Examples:
  rforkctl --key key 10.0.0.2 ps            children: from where, since when, what they use, state
  rforkctl --key key 10.0.0.2 logs -f 3     the output of child 3, until it ends
  rforkctl --key key 10.0.0.2 attach 3      the same, and signals (Ctrl-C too) go to it
  rforkctl --key key 10.0.0.2 kill 3 USR1   a signal for it (TERM unless said otherwise)
  rforkctl --key key 10.0.0.2 wait 3        ends as child 3 ends: its exit status, 128 + its signal
  rforkctl --key key 10.0.0.2 rm 3          forgets it and its output, once it has ended
  rforkctl --key key 10.0.0.2 events -f     what happens to children: a line of JSON for each event
  rforkctl monitor 7412                     events of every rforkd --notify ADDR:7412, by time
  rforkctl --key key 10.0.0.2 resolve ID    what became of a move that is in doubt
Exit codes: 0 done, 1 internal, 2 usage, 5 refused (no such child, wrong key), 6 connection lost,
  7 resolve: the daemon does not know the move, 130 interrupted; wait, attach: the child's own.)";

void add_options(CLI::App& app, Arguments& arguments) {
  app.add_option("HOST", arguments.host, "HOST[:PORT] of an rforkd; to resolve also ssh:USER@HOST");
  app.add_option("--key", arguments.key, "File with the key that both hosts share")
      ->envname("RFORK_KEY");
  app.add_flag("--json", arguments.as_json, "The answer as JSON");
  app.set_version_flag("--version", "rforkctl " RFORK_VERSION);
  app.footer(kExamples);
  app.fallthrough();
  app.require_subcommand(0, 1);
  app.add_subcommand("ps", "List children")->fallthrough();
  const auto with_id = [&](const char* name, const char* what) {
    CLI::App* const command = app.add_subcommand(name, what)->fallthrough();
    command->add_option("ID", arguments.id)->required();
    return command;
  };
  with_id("logs", "Show what a child wrote")
      ->add_flag("-f,--follow", arguments.follow, "Go on until it ends");
  with_id("attach", "Stand for a child: its output comes here, signals go to it");
  CLI::App* const events = app.add_subcommand("events", "Show what happened to children");
  events->fallthrough();
  events->add_option("ID", arguments.id, "Only of this child");
  events->add_flag("-f,--follow", arguments.follow, "Go on with new events");
  CLI::App* const monitor = app.add_subcommand("monitor", "Show what daemons send by --notify");
  monitor->fallthrough();
  monitor->add_option("PORT", arguments.port, "[ADDR:]PORT to listen on; all addresses")
      ->required();
  with_id("kill", "Send a child a signal")
      ->add_option("-s,--signal,SIGNAL", arguments.signal, "Name or number; TERM");
  with_id("wait", "Wait until a child ends, and end as it did");
  with_id("rm", "Forget an ended child and its output");
  with_id("resolve", "Ask what became of a move");
}

int signal_number(const std::string& text) {
  const std::string name = text.starts_with("SIG") ? text.substr(3) : text;
  for (int signal = 1; signal <= SIGRTMAX; ++signal) {
    const char* const known = ::sigabbrev_np(signal);
    if ((known != nullptr && name == known) || name == std::to_string(signal)) return signal;
  }
  throw Refusal(Failure::usage, fmt::format("'{}' is no signal", text),
                "write a name as TERM or a number");
}

session::Endpoint endpoint_of(const Arguments& arguments) {
  if (arguments.host.empty()) throw Refusal(Failure::usage, "name a HOST", "see rforkctl --help");
  session::Endpoint endpoint;
  endpoint.address = net::parse_address(arguments.host);
  if (!arguments.key.empty()) endpoint.key = net::load_key(arguments.key);
  endpoint.interrupted = [] { return interrupted_by_signal.load(); };
  return endpoint;
}

/// Names are the kernel's bytes, which JSON text can't always hold.
void print_json(const json& value) {
  std::puts(value.dump(-1, ' ', false, json::error_handler_t::replace).c_str());
}

void print_children(const session::Endpoint& endpoint, bool as_json) {
  const std::vector<session::ChildInfo> children = session::list_children(endpoint);
  if (as_json) {
    json list = json::array();
    for (const session::ChildInfo& child : children) list.push_back(to_json(child));
    return print_json({{"children", list}});
  }
  fmt::print("{}", child_table(children));
}

int wait_for(const session::Endpoint& endpoint, const Arguments& arguments) {
  const session::ChildInfo child = session::wait_for_child(endpoint, arguments.id);
  if (arguments.as_json) print_json(to_json(child));
  return session::exit_code(child.end);
}

int attach_to(const session::Endpoint& endpoint, const Arguments& arguments) {
  const auto output = [](auto bytes) { write_full(STDOUT_FILENO, bytes, "standard output"); };
  loader::end_as(session::attach(endpoint, arguments.id, {.output = output}).end);
}

int resolve(const session::Endpoint& endpoint, const Arguments& arguments) {
  using State = session::Resolution::State;
  const session::Resolution found = session::resolve(endpoint, arguments.id);
  constexpr const char* kWords[] = {"running", "ended", "aborted", "unknown"};
  if (arguments.as_json) {
    print_json({{"state", kWords[static_cast<size_t>(found.state)]},
                {"child_id", found.child_id},
                {"pid", found.pid},
                {"description", found.description}});
  } else if (found.child_id.empty()) {
    fmt::print("{}\n", found.description);
  } else {
    fmt::print("child {}, pid {}: {}\n", found.child_id, found.pid, found.description);
  }
  return found.state == State::unknown ? static_cast<int>(Failure::in_doubt) : 0;
}

void catch_signals() {
  struct sigaction action {};
  action.sa_handler = [](int) { interrupted_by_signal = true; };
  for (const int signal : {SIGINT, SIGTERM, SIGHUP}) ::sigaction(signal, &action, nullptr);
}

/// Ends as it is meant to when it is interrupted.
int monitor(const Arguments& arguments) {
  if (!arguments.host.empty()) {
    throw Refusal(Failure::usage, "monitor listens, and asks no HOST",
                  "rforkd --notify ADDR:PORT there sends events here");
  }
  catch_signals();
  print_monitor(arguments.port, arguments.as_json, [] { return interrupted_by_signal.load(); });
  return 0;
}

int run(const std::string& command, const Arguments& arguments) {
  if (command == "monitor") return monitor(arguments);
  const session::Endpoint endpoint = endpoint_of(arguments);
  if (command == "attach") return attach_to(endpoint, arguments);
  catch_signals();
  if (command == "wait") return wait_for(endpoint, arguments);
  if (command == "resolve") return resolve(endpoint, arguments);
  if (command == "ps") {
    print_children(endpoint, arguments.as_json);
  } else if (command == "logs") {
    session::read_log(endpoint, {arguments.id, arguments.follow},
                      [](auto bytes) { write_full(STDOUT_FILENO, bytes, "standard output"); });
  } else if (command == "events") {
    print_events(endpoint, arguments.id, arguments.follow);
  } else if (command == "kill") {
    session::send_signal(endpoint, arguments.id, signal_number(arguments.signal));
  } else {
    session::remove_child(endpoint, arguments.id);
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  Arguments arguments;
  CLI::App app("Asks an rforkd about the processes that came to its host.");
  add_options(app, arguments);
  return run_program("rforkctl", app, argc, argv, arguments.as_json, [&] {
    if (app.get_subcommands().empty()) {
      throw Refusal(
          Failure::usage,
          "say what to ask: ps, logs, attach, events, kill, wait, rm or resolve; or monitor",
          "see rforkctl --help");
    }
    return run(app.get_subcommands().front()->get_name(), arguments);
  });
}
