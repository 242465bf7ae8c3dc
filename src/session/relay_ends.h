// The ends of what is relayed, at the origin and at the destination.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"
#include "session/relays.h"

namespace rfork::session {

struct RelayEnd {
  uint32_t id = 0;  ///< of the description
  image::Description::RelayType type = image::Description::RelayType::reader;
  UniqueFd fd;
  uint64_t inode_of_child = 0;  ///< at the destination: of what the child has
  bool reads = true;            ///< at the origin, of a terminal: its input is the child's
  bool on_demand = false;       ///< at the origin: others read it too
};

/// At the destination: what the child gets for a relayed description, and our end of it.
struct RelayPair {
  RelayEnd ours;
  UniqueFd of_child;
  std::vector<std::string> differences;  ///< of the child's end from the original's
};
/// `words`: what a person calls it ("descriptor 3").
RelayPair make_relay_pair(const image::Description& description, const std::string& words);
/// For one that leads to the same terminal, or end of a pipe, as another, of which the child has
/// `fd`.
UniqueFd open_again(const image::Description& description, int fd);

/// At the origin: the original's own end, so that reading and writing it never waits. It stays the
/// same pipe, socket or terminal, but where that can be, a description of our own.
RelayEnd origin_end(const image::Description& description, UniqueFd own);

/// What our end does: at the destination it is the other end of what the child has, at the origin
/// the same end.
void add_at_destination(Relays& relays, RelayEnd end);
void add_at_origin(Relays& relays, RelayEnd end);

}  // namespace rfork::session
