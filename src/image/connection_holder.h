// What the holder of a moved process's TCP connections and those who deal with it say to each
// other.
//
// The holder (session/connection_holder.h) is a process on the origin's host that has the sockets
// of a process which was moved into a file, until the process goes on (loader/held_connections.h).
// Each message is one of a SOCK_SEQPACKET unix socket. Sockets travel with it (SCM_RIGHTS), named
// by their SO_COOKIE.
//
//   rfork-trace ── hold, … ──▶ holder        each is answered by `done`
//               ── prepare ──▶               `done`; rfork-trace then stops the original
//               ── commit ──▶                the holder ends the original: `done`
//   rfork-run   ── want, … ──▶               answered by `given`, or by `refused`
//   child       ── taken ──▶                 the holder lets go
//
// The end of a connection before the last word takes back all that was said on it.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace rfork::image {

/// The kernel passes no more than 253 descriptors at once (SCM_MAX_FD, unix(7)).
inline constexpr size_t kMostHeldAtOnce = 200;

struct HolderMessage {
  enum class Word : uint32_t {
    hold = 1,  ///< these sockets
    prepare,   ///< the original is that of the pidfd that is passed, and about to be stopped;
               ///< `number`: 1 if it was stopped before
    commit,    ///< end it, and keep them
    done,
    want,     ///< the sockets with these cookies
    given,    ///< here they are, in the order of the request
    refused,  ///< for `why`
    taken,    ///< what was given belongs to a process that runs
  };
  enum class Why : uint32_t {
    none,
    unknown,      ///< it hasn't one of them, or not any more
    busy,         ///< another is about to take them on
    not_allowed,  ///< for who asks is another user
    failed,       ///< `number` is an errno
  };
  static constexpr uint32_t kMagic = 0x31484652;  // "RFH1"

  uint32_t magic = kMagic;
  Word word = Word::done;
  Why why = Why::none;
  int32_t number = 0;  ///< of `given`: the user of the process that had them; else an errno
  uint32_t count = 0;  ///< of cookies
  uint32_t reserved = 0;
  std::array<uint64_t, kMostHeldAtOnce> cookies{};
};

/// A message with the descriptors that came in it, as many as fit.
struct ReceivedHolderMessage {
  HolderMessage message;
  std::vector<UniqueFd> passed;
};

/// False, with errno set, when it couldn't be sent. Never raises SIGPIPE. `flags`: MSG_DONTWAIT.
bool send_to_holder(int socket, const HolderMessage& message, const std::vector<int>& passed,
                    int flags = 0);
/// The next message. nullopt: the connection has ended (errno 0), what came is no such message
/// (EPROTO), or errno says why not.
std::optional<ReceivedHolderMessage> receive_of_holder(int socket, int flags = 0);

/// A new socket for such messages, close-on-exec. Throws Error.
UniqueFd holder_socket();
/// bind(2) or connect(2) of it to a name in the abstract namespace. 0, or an errno.
int bind_holder(int socket, const std::string& name);
int connect_to_holder(int socket, const std::string& name);

/// Of this process: the inode of its network namespace; 0: it can't be known.
uint64_t own_network_namespace();
/// SO_COOKIE; 0: none.
uint64_t socket_cookie(int socket);

}  // namespace rfork::image
