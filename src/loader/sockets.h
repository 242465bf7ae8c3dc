// Makes a process's sockets again: with their names, connected to each other, with what is queued
// in them, and their options.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <map>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"
#include "loader/bind_socket.h"
#include "loader/findings.h"
#include "loader/plan_writer.h"
#include "loader/socket_names.h"

namespace rfork::loader {

class SocketMaker {
 public:
  SocketMaker(const image::Snapshot& snapshot, BindOptions options, Findings& findings);

  /// The socket of one description; the first call makes all of them, for they depend on each
  /// other. Empty, with a reason in the findings, when it can't be had.
  UniqueFd open(const image::Description& description);
  /// Fills and connects them and sets their options. `descriptor` gives what is open here for a
  /// description that was on its way in one of them (borrowed), or -1.
  void complete(const std::function<int(uint32_t)>& descriptor);
  /// The child's own calls, with all descriptors in place and its own user: messages that tell who
  /// sent them, if it was the process.
  void add_messages(PlanWriter& plan) const;
  /// The child runs: paths of sockets stay.
  void keep() { names_.keep(); }
  /// Closes what no description has taken.
  void let_go() {
    for (auto& [id, one] : made_) one.bound.fd.reset();
  }

 private:
  struct Made {
    const image::Description* description = nullptr;
    image::Socket socket;
    int number = 0;  ///< a descriptor that has it
    BoundSocket bound;
    UniqueFd gone;  ///< the other end of one whose peer is no more

    int fd() const { return bound.fd.get(); }
    std::string words() const;
  };

  void add(const image::Description& description, int number);
  void make_all();
  void ask_for_held();
  void take_remade();
  void share_ports_of_kept();
  void unshare_ports_of_kept();
  bool is_pair(const Made& one) const;
  bool child_fills(const Made& one) const;
  bool child_fills_either(const Made& one) const;
  void make_pair(Made& one);
  bool connect_pair(Made& client, Made& server);
  void make_dead_pair(Made& one);
  bool waits(const Made& one) const;
  bool is_tcp_connection(const Made& one) const;
  bool was_accepted(const image::Socket& socket) const;
  void make_tcp(Made& one);
  void make_tcp_to_itself(Made& one);
  int connect_tcp(Made& client, Made& server);
  void say_where(const Made& one);
  void say_elsewhere();
  void make_waiting(Made& one);
  void connect_waiting(Made& one, const Made& listening);
  void connect_all_waiting(const Made& listening);
  void finish_tcp(Made& one);
  void make_alone(Made& one);
  void connect(Made& one);
  int connect_to_dead(Made& one);
  void say_whose(const Made& one);
  void fill(Made& one, const std::function<int(uint32_t)>& descriptor);
  int send_to(Made& one, const image::SocketMessage& message, std::span<const int> passed);
  int send_as_sender(Made& one, const image::SocketMessage& message, std::span<const int> passed);
  Made* own_with_name(const Bytes& name, const Made& receiver);
  void finish(Made& one);

  const image::Snapshot& snapshot_;
  BindOptions options_;
  Findings& findings_;
  SocketNames names_;
  std::map<uint32_t, Made> made_;       ///< by description
  std::map<uint32_t, int> numbers_;     ///< by description: a descriptor that has it
  std::set<uint16_t> listening_ports_;  ///< in network byte order
  std::vector<std::string> elsewhere_;  ///< TCP connections that have other addresses
  bool all_made_ = false;
};

}  // namespace rfork::loader
