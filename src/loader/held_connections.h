// TCP connections that a holder has of a process which was moved into a file: taken on by the child
// (image/connection_holder.h).
//
// What is given here stays with the holder until the child says that it runs. A restore that ends
// before that has changed nothing.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"
#include "image/connection_holder.h"
#include "image/model.h"
#include "loader/plan_writer.h"

namespace rfork::loader {

class HeldConnections {
 public:
  /// Finds the holder that the image names, if it names one and that is `wanted`. As whoever calls
  /// this: the holder gives nothing to others than its own user and root.
  HeldConnections(const image::Snapshot& snapshot, bool wanted);

  /// Asks for the sockets with these cookies: all, or none. As the child's user, who has no right
  /// to another's connections.
  void ask_for(std::vector<uint64_t> cookies);
  /// The socket with that cookie; empty if it wasn't given.
  UniqueFd take(uint64_t cookie);
  /// Whether there is one to be asked, or was.
  bool named() const { return named_; }
  /// Why nothing is given: `process 4711 …`.
  const std::string& why_not() const { return why_not_; }

  /// The connection to the holder, which the child gets; -1: there is none.
  int line() const { return line_.get(); }
  /// The child's own call, after GO: from then on the sockets are its own. `line`: as the child
  /// numbers it.
  void add_taking(PlanWriter& plan, int line) const;
  /// The child runs.
  void let_go() { line_.reset(); }

 private:
  bool greet();
  std::optional<image::ReceivedHolderMessage> ask(const image::HolderMessage& question);
  bool ask_for_some(const std::vector<uint64_t>& cookies, size_t first);
  void give_up(std::string why);

  bool named_ = false;
  image::ConnectionHolder holder_;
  std::string why_not_;
  bool greeted_ = false;
  uid_t owner_ = 0;  ///< of the process that had them
  UniqueFd line_;
  std::map<uint64_t, UniqueFd> given_;  ///< by cookie
};

}  // namespace rfork::loader
