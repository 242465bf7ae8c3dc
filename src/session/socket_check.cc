#include "session/socket_check.h"

#include <algorithm>
#include <span>

#include "loader/bind_socket.h"

namespace rfork::session {

namespace {

Bytes bytes_of(const std::string& text) {
  const auto bytes = std::as_bytes(std::span(text));
  return {bytes.begin(), bytes.end()};
}

image::Socket socket_of(const NamedSocket& named) {
  image::Socket socket;
  socket.family = named.family;
  socket.type = named.type;
  socket.protocol = named.protocol;
  socket.name = bytes_of(named.name);
  socket.peer = bytes_of(named.peer);
  socket.interface = named.interface;
  socket.has_path = named.has_path;
  socket.listening = named.listening;
  socket.cookie = named.cookie;
  for (size_t i = 0; i < std::min(named.options.size(), named.values.size()); ++i) {
    socket.options.push_back({named.options[i], bytes_of(named.values[i])});
  }
  return socket;
}

}  // namespace

std::vector<image::Socket> check_sockets(const Offer& offer, bool same_boot,
                                         std::vector<Reason>& reasons) {
  loader::BindOptions options;
  options.any_address = offer.any_address;
  options.original = offer.move && same_boot ? offer.pid : 0;
  options.trial = true;
  options.where = "there";
  loader::SocketNames names("/");
  loader::Findings findings;  // its notes come again when the socket is made
  std::vector<loader::BoundSocket> tried;
  std::vector<image::Socket> to_remake;
  for (const NamedSocket& named : offer.sockets) {
    image::Socket socket = socket_of(named);
    loader::BoundSocket taken;
    if (!loader::is_kept_connection(socket) || take_original(taken, socket, named.fd, options)) {
      continue;
    }
    options.moving.insert(loader::moving_address(socket));
    to_remake.push_back(std::move(socket));
  }
  for (const NamedSocket& named : offer.sockets) {
    const image::Socket socket = socket_of(named);
    if (loader::is_kept_connection(socket)) continue;
    // Two may want the same name, which only both together show.
    tried.push_back(make_socket(socket, named.fd, options, names, findings));
  }
  reasons.insert(reasons.end(), findings.reasons.begin(), findings.reasons.end());
  return to_remake;
}

}  // namespace rfork::session
