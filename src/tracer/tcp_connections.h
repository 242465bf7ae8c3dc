// TCP connections that lead from the process to itself, and ends of others whose other end is
// closed: which they are, and what is in them.
//
// Two ends of one network namespace belong together if the addresses of one are those of the other,
// reversed. sock_diag(7) tells of ends that have no descriptor: those that nobody has accepted yet,
// and those that are closed and not gone.
#pragma once

#include <netinet/in.h>
#include <sys/types.h>

#include <array>
#include <compare>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "image/model.h"
#include "tracer/channel_end.h"

namespace rfork::tracer {

/// Of any stream socket; follows "a socket".
inline constexpr const char* kUrgentData =
    "with urgent data among what the process hasn't read yet (MSG_OOB)";

/// Where the other end of a TCP connection is.
struct TcpLink {
  enum class Way : uint8_t {
    pair,     ///< `other`
    waiting,  ///< nobody has accepted it from the listening socket `other`
    gone,     ///< closed, and was on this host
  };
  Way way = Way::pair;
  uint32_t other = 0;     ///< its description
  ino_t other_inode = 0;  ///< 0: none
};

class TcpConnections {
 public:
  explicit TcpConnections(pid_t pid) : pid_(pid) {}

  /// Finds out about all of the process's sockets.
  void look_at(const std::vector<ChannelEnd>& ends);
  /// By inode; what isn't there leads elsewhere.
  const std::map<ino_t, TcpLink>& links() const { return links_; }

  /// What can't be read of an end that is linked, in words that follow "a socket"; empty: all of it
  /// can.
  std::string obstacle(ino_t inode) const;
  /// Takes what the other end has written and this one hasn't read; the process is stopped. What
  /// stands in the way, in words; empty: nothing.
  std::string read(ino_t inode, std::vector<image::SocketMessage>& messages) const;

 private:
  struct Endpoint {
    std::array<std::byte, 16> address{};  ///< of IPv4 as IPv6 maps it
    uint16_t port = 0;                    ///< in network order
    auto operator<=>(const Endpoint&) const = default;
    bool is_loopback() const;
    bool is_mapped() const;
    bool is_any() const;
  };
  struct End {
    pid_t pid = 0;
    int fd = 0;
    uint32_t description = 0;
    uint8_t state = 0;
    bool transparent = false;
    bool unread = false;  ///< bytes are left in one that is closed
    uint64_t space = 0;   ///< SO_NETNS_COOKIE
    bool shares_port = false;
    Endpoint local, peer;
  };
  /// An end as sock_diag(7) describes it.
  struct Told {
    uint8_t state = 0;  ///< 0: there is none
    ino_t inode = 0;
    uint32_t unread = 0, unsent = 0;  ///< bytes; an end counts as one
  };

  static Endpoint endpoint(int fd, decltype(::getsockname)* ask);
  void add(const ChannelEnd& end);
  std::optional<TcpLink> find_link(const End& end) const;
  std::optional<TcpLink> find_without_descriptor(const End& end) const;
  const std::pair<const ino_t, End>* listener_of(const Endpoint& name) const;
  /// nullopt: the kernel can't tell.
  std::optional<Told> ask(const Endpoint& local, const Endpoint& peer) const;
  std::optional<Told> take_answer() const;
  bool await_end(int fd, const End& end) const;
  bool has_urgent_data(int fd, const End& end) const;

  pid_t pid_;
  UniqueFd netlink_;
  uint64_t space_ = 0;
  std::map<ino_t, End> ends_;
  /// By network namespace, own address and peer's.
  std::map<std::tuple<uint64_t, Endpoint, Endpoint>, ino_t> by_addresses_;
  std::map<ino_t, TcpLink> links_;
};

}  // namespace rfork::tracer
