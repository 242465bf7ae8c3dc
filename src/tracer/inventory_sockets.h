// The sockets among a process's descriptors.
#pragma once

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
  std::string info;   ///< fdinfo
};

/// Describes a socket that can be made again, with what is queued in it if the process is stopped.
/// False, with an obstacle noted, when something of it can't be carried; nullopt when its other end
/// is elsewhere.
std::optional<bool> add_socket(Inventory& inventory, const InventoryInput& input,
                               const OwnChannels& channels, const SocketEnd& socket,
                               image::Description& description);

/// Those that want a name where they go, each by the first of its descriptors.
std::vector<OpenSocket> named_sockets(const Inventory& inventory);

}  // namespace rfork::tracer
