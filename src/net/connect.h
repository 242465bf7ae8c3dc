// TCP: reaching a daemon, and the options every connection of ours has.
#pragma once

#include <asio/awaitable.hpp>

#include "base/unique_fd.h"
#include "net/address.h"
#include "net/wait.h"

namespace rfork::net {

/// A connected socket. Tries every address of the host's name within one deadline. Throws
/// Refusal(connection_lost) with what the kernel or the resolver said.
asio::awaitable<UniqueFd> connect(const Address& address, Wait wait);

/// No Nagle delay; a peer that vanished without a word is noticed within half a minute of silence,
/// so that a long wait (for a person, for a slow restore) needs no traffic of ours.
void set_tcp_options(int socket);

}  // namespace rfork::net
