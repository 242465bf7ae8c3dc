// TCP connections of a network namespace from which nothing gets out, and to which nothing gets in:
// to their other ends it looks as if the cable was cut.
//
// By a table of nf_tables that has an owner (NFT_TABLE_F_OWNER, Linux 5.12): the kernel removes it
// when the netlink socket that made it is closed, so that no silence outlives the last process
// which has that socket. Rejected: a filter of the sockets (SO_ATTACH_FILTER), which stays when
// whoever set it dies, and doesn't keep the host from answering with RST where there is no socket.
// Sources: linux/netfilter/nf_tables.h; Documentation/netlink/specs/nftables.yaml.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/unique_fd.h"

namespace rfork {

/// Both addresses of a connection, as they are in its packets.
struct TcpTuple {
  bool four = true;  ///< IPv4: the first four bytes of each address
  std::array<std::byte, 16> local{}, peer{};
  uint16_t local_port = 0, peer_port = 0;  ///< in network order

  bool is_loopback() const;
  bool is_link_local() const;
};

/// Of this end, as people write it.
std::string own_address_words(const TcpTuple& tuple);
/// From two struct sockaddr. nullopt: they aren't addresses of IP, or not of one version.
std::optional<TcpTuple> tcp_tuple(std::span<const std::byte> local,
                                  std::span<const std::byte> peer);
/// Of a socket that is connected.
std::optional<TcpTuple> tcp_tuple(int fd);

class TcpSilence {
 public:
  /// Makes the table, with nothing in it yet. `netlink` is a socket of NETLINK_NETFILTER, which
  /// says in which network namespace. Throws Error: EPERM without CAP_NET_ADMIN there, EOPNOTSUPP
  /// or the like where the kernel lacks nf_tables or a part of it.
  explicit TcpSilence(UniqueFd netlink);
  /// The silence is theirs who have the socket too, and else ends.
  ~TcpSilence() = default;
  TcpSilence(TcpSilence&&) = default;
  TcpSilence& operator=(TcpSilence&&) = delete;

  /// When it returns nothing is on its way any more between these connections and the network.
  /// Throws Error.
  void add(const std::vector<TcpTuple>& tuples);
  /// Ends it, whoever has the socket. Never throws.
  void lift();
  /// Who else has it keeps the silence.
  int socket() const { return netlink_.get(); }

 private:
  UniqueFd netlink_;
};

}  // namespace rfork
