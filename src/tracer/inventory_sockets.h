// The sockets among a process's descriptors.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "image/model.h"
#include "tracer/capture.h"
#include "tracer/inventory.h"
#include "tracer/own_channels.h"

namespace rfork::tracer {

struct SocketEnd {
  ChannelEnd end;
  std::string words;  ///< what a person calls it
  /// The description that a descriptor of ours leads to, which was on its way in a socket; 0: none.
  std::function<uint32_t(int)> description_of;
};

/// What is on its way in a unix socket of process `pid`, open here. Empty if nothing is; nullopt if
/// it can't be told.
std::optional<std::vector<UniqueFd>> passed_in(pid_t pid, int fd, const std::string& fdinfo);

/// Describes a socket that can be made again, with what is queued in it if the process is stopped.
/// False, with an obstacle noted, when something of it can't be carried; nullopt when its other end
/// is elsewhere.
std::optional<bool> add_socket(Inventory& inventory, const InventoryInput& input,
                               const OwnChannels& channels, const SocketEnd& socket,
                               image::Description& description);

/// Those that want a name where they go, each by the first of its descriptors.
std::vector<OpenSocket> named_sockets(const Inventory& inventory);

}  // namespace rfork::tracer
