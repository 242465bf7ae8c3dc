// The daemon's listening sockets.
#pragma once

#include <asio/io_context.hpp>
#include <asio/ip/tcp.hpp>

#include "net/address.h"

namespace rfork::session {

/// Binds and listens. Throws Refusal(usage) in one line when that fails, or when `loopback_only`
/// and the address is another.
asio::ip::tcp::acceptor listen_on(asio::io_context& context, const net::Address& address,
                                  bool loopback_only);

/// `10.0.0.3:40112`
std::string text_of(const asio::ip::tcp::endpoint& endpoint);

}  // namespace rfork::session
