#include "base/tcp_silence.h"

#include <arpa/inet.h>
#include <linux/membarrier.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string>
#include <string_view>

#include "base/error.h"
#include "base/io.h"

namespace rfork {

namespace {

constexpr int kRawPriority = -300;  // NF_IP_PRI_RAW: before connections are tracked
constexpr uint32_t kFirstRegister = NFT_REG32_00, kSpareRegister = NFT_REG32_15;
constexpr size_t kMostAtOnce = 500;  // an attribute has 64 KiB

struct Version {
  const char* set;
  uint8_t family;
  uint32_t address_offset;  ///< of both addresses in the header
  uint32_t address_size;
  uint32_t key_size() const { return 2 * address_size + 2 * sizeof(uint16_t); }
};
constexpr Version kFour{"four", NFPROTO_IPV4, 12, 4};
constexpr Version kSix{"six", NFPROTO_IPV6, 8, 16};

Bytes number(uint32_t value) {
  const uint32_t in_order = htonl(value);
  const auto* const start = reinterpret_cast<const std::byte*>(&in_order);
  return {start, start + sizeof in_order};
}

Bytes text(std::string_view words) {
  Bytes bytes(words.size() + 1);
  std::memcpy(bytes.data(), words.data(), words.size());
  return bytes;
}

Bytes attribute(int type, const Bytes& value) {
  const nlattr header{static_cast<uint16_t>(NLA_HDRLEN + value.size()),
                      static_cast<uint16_t>(type)};
  Bytes bytes(static_cast<size_t>(NLA_ALIGN(header.nla_len)));
  std::memcpy(bytes.data(), &header, sizeof header);
  std::ranges::copy(value, bytes.begin() + NLA_HDRLEN);
  return bytes;
}

Bytes nested(int type, std::initializer_list<Bytes> parts) {
  Bytes all;
  for (const Bytes& part : parts) all.insert(all.end(), part.begin(), part.end());
  return attribute(type | NLA_F_NESTED, all);
}

Bytes expression(const char* name, std::initializer_list<Bytes> parts) {
  return nested(NFTA_LIST_ELEM,
                {attribute(NFTA_EXPR_NAME, text(name)), nested(NFTA_EXPR_DATA, parts)});
}

/// Goes on only where `key` of the packet has that value.
std::array<Bytes, 2> only_if(nft_meta_keys key, uint8_t value) {
  return {expression("meta", {attribute(NFTA_META_DREG, number(kSpareRegister)),
                              attribute(NFTA_META_KEY, number(key))}),
          expression("cmp", {attribute(NFTA_CMP_SREG, number(kSpareRegister)),
                             attribute(NFTA_CMP_OP, number(NFT_CMP_EQ)),
                             nested(NFTA_CMP_DATA, {attribute(NFTA_DATA_VALUE,
                                                              {static_cast<std::byte>(value)})})})};
}

Bytes load(nft_payload_bases base, uint32_t offset, uint32_t size, uint32_t into) {
  return expression(
      "payload",
      {attribute(NFTA_PAYLOAD_DREG, number(into)), attribute(NFTA_PAYLOAD_BASE, number(base)),
       attribute(NFTA_PAYLOAD_OFFSET, number(offset)), attribute(NFTA_PAYLOAD_LEN, number(size))});
}

/// Messages that take effect together, or not at all.
class Batch {
 public:
  Batch() { begin(NFNL_MSG_BATCH_BEGIN, AF_UNSPEC, NFNL_SUBSYS_NFTABLES, 0, {}); }
  void add(int type, int flags, std::initializer_list<Bytes> attributes) {
    begin((NFNL_SUBSYS_NFTABLES << 8) | type, NFPROTO_INET, 0, flags | NLM_F_ACK, attributes);
  }
  /// 0, or an errno.
  int commit(int netlink) {
    begin(NFNL_MSG_BATCH_END, AF_UNSPEC, NFNL_SUBSYS_NFTABLES, 0, {});
    if (::send(netlink, bytes_.data(), bytes_.size(), 0) < 0) return errno;
    // The kernel has done it by now, and the answers are there.
    alignas(nlmsghdr) std::array<std::byte, 8192> buffer;
    int error = EPROTO;
    for (bool first = true;; first = false) {
      const ssize_t size = ::recv(netlink, buffer.data(), buffer.size(), MSG_DONTWAIT);
      if (size < 0) return error;
      if (first) error = 0;
      const auto* message = reinterpret_cast<const nlmsghdr*>(buffer.data());
      for (size_t left = static_cast<size_t>(size); NLMSG_OK(message, left);
           message = NLMSG_NEXT(message, left)) {
        if (message->nlmsg_type != NLMSG_ERROR) continue;
        const int said = -reinterpret_cast<const nlmsgerr*>(NLMSG_DATA(message))->error;
        if (error == 0) error = said;
      }
    }
  }

 private:
  void begin(int type, int family, int resource, int flags, std::initializer_list<Bytes> parts) {
    nlmsghdr header{};
    header.nlmsg_type = static_cast<uint16_t>(type);
    header.nlmsg_flags = static_cast<uint16_t>(NLM_F_REQUEST | flags);
    header.nlmsg_seq = ++sequence_;
    const nfgenmsg generic{static_cast<uint8_t>(family), NFNETLINK_V0,
                           htons(static_cast<uint16_t>(resource))};
    size_t size = NLMSG_LENGTH(sizeof generic);
    for (const Bytes& part : parts) size += part.size();
    header.nlmsg_len = static_cast<uint32_t>(size);
    append(&header, sizeof header);
    append(&generic, sizeof generic);
    for (const Bytes& part : parts) append(part.data(), part.size());
  }
  void append(const void* start, size_t size) {
    const auto* const from = static_cast<const std::byte*>(start);
    bytes_.insert(bytes_.end(), from, from + size);
    bytes_.resize(static_cast<size_t>(NLMSG_ALIGN(bytes_.size())));
  }

  Bytes bytes_;
  uint32_t sequence_ = 0;
};

/// The netlink socket's own number, which nobody else in the namespace has.
std::string table_name(int netlink) {
  sockaddr_nl own{};
  socklen_t size = sizeof own;
  if (::getsockname(netlink, reinterpret_cast<sockaddr*>(&own), &size) != 0) {
    throw_errno("getsockname", "netlink");
  }
  return "rfork-" + std::to_string(own.nl_pid);
}

void add_set(Batch& batch, const Bytes& table, const Version& version, uint32_t id) {
  batch.add(NFT_MSG_NEWSET, NLM_F_CREATE,
            {table, attribute(NFTA_SET_NAME, text(version.set)),
             attribute(NFTA_SET_FLAGS, number(0)), attribute(NFTA_SET_KEY_TYPE, number(0)),
             attribute(NFTA_SET_KEY_LEN, number(version.key_size())),
             attribute(NFTA_SET_ID, number(id))});
}

/// Drops what is in the set of that version of IP.
void add_rule(Batch& batch, const Bytes& table, const char* chain, const Version& version) {
  const auto of_version = only_if(NFT_META_NFPROTO, version.family);
  const auto of_tcp = only_if(NFT_META_L4PROTO, IPPROTO_TCP);
  const uint32_t behind = kFirstRegister + 2 * version.address_size / sizeof(uint32_t);
  batch.add(
      NFT_MSG_NEWRULE, NLM_F_CREATE | NLM_F_APPEND,
      {table, attribute(NFTA_RULE_CHAIN, text(chain)),
       nested(NFTA_RULE_EXPRESSIONS,
              {of_version[0], of_version[1], of_tcp[0], of_tcp[1],
               load(NFT_PAYLOAD_NETWORK_HEADER, version.address_offset, 2 * version.address_size,
                    kFirstRegister),
               load(NFT_PAYLOAD_TRANSPORT_HEADER, 0, 2 * sizeof(uint16_t), behind),
               expression("lookup", {attribute(NFTA_LOOKUP_SET, text(version.set)),
                                     attribute(NFTA_LOOKUP_SREG, number(kFirstRegister))}),
               expression("immediate",
                          {attribute(NFTA_IMMEDIATE_DREG, number(NFT_REG_VERDICT)),
                           nested(NFTA_IMMEDIATE_DATA,
                                  {nested(NFTA_DATA_VERDICT,
                                          {attribute(NFTA_VERDICT_CODE, number(NF_DROP))})})})})});
}

Bytes key(const Version& version, bool comes_in, const TcpTuple& tuple) {
  Bytes bytes;
  const auto append = [&](const void* start, size_t size) {
    const auto* const from = static_cast<const std::byte*>(start);
    bytes.insert(bytes.end(), from, from + size);
  };
  append(comes_in ? tuple.peer.data() : tuple.local.data(), version.address_size);
  append(comes_in ? tuple.local.data() : tuple.peer.data(), version.address_size);
  append(comes_in ? &tuple.peer_port : &tuple.local_port, sizeof(uint16_t));
  append(comes_in ? &tuple.local_port : &tuple.peer_port, sizeof(uint16_t));
  return bytes;
}

/// What the kernel was about to do with packets when the table changed is done: each of them is
/// dealt with within one section that a grace period of RCU waits for (membarrier(2)).
void await_packets_under_way() {
  if (::syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0) == 0) return;
  constexpr useconds_t kLongEnough = 20'000;
  ::usleep(kLongEnough);
}

struct Endpoint {
  bool four = true;
  std::array<std::byte, 16> address{};
  uint16_t port = 0;
};

std::optional<Endpoint> endpoint(std::span<const std::byte> name) {
  Endpoint found;
  uint16_t family = 0;
  if (name.size() >= sizeof family) std::memcpy(&family, name.data(), sizeof family);
  if (family == AF_INET && name.size() >= sizeof(sockaddr_in)) {
    sockaddr_in in;
    std::memcpy(&in, name.data(), sizeof in);
    std::memcpy(found.address.data(), &in.sin_addr, sizeof in.sin_addr);
    found.port = in.sin_port;
    return found;
  }
  if (family != AF_INET6 || name.size() < sizeof(sockaddr_in6)) return std::nullopt;
  sockaddr_in6 in;
  std::memcpy(&in, name.data(), sizeof in);
  found.port = in.sin6_port;
  found.four = IN6_IS_ADDR_V4MAPPED(&in.sin6_addr);
  const size_t start = found.four ? 12 : 0;
  std::memcpy(found.address.data(), in.sin6_addr.s6_addr + start, found.four ? 4 : 16);
  return found;
}

}  // namespace

bool TcpTuple::is_loopback() const {
  constexpr std::byte kNet{127};
  if (four) return local[0] == kNet;
  in6_addr address;
  std::memcpy(&address, local.data(), sizeof address);
  return IN6_IS_ADDR_LOOPBACK(&address);
}

bool TcpTuple::is_link_local() const {
  if (four) return local[0] == std::byte{169} && local[1] == std::byte{254};
  in6_addr address;
  std::memcpy(&address, local.data(), sizeof address);
  return IN6_IS_ADDR_LINKLOCAL(&address);
}

std::string own_address_words(const TcpTuple& tuple) {
  char words[INET6_ADDRSTRLEN] = "";
  ::inet_ntop(tuple.four ? AF_INET : AF_INET6, tuple.local.data(), words, sizeof words);
  return words;
}

std::optional<TcpTuple> tcp_tuple(std::span<const std::byte> local,
                                  std::span<const std::byte> peer) {
  const auto here = endpoint(local), there = endpoint(peer);
  if (!here || !there || here->four != there->four) return std::nullopt;
  return TcpTuple{here->four, here->address, there->address, here->port, there->port};
}

std::optional<TcpTuple> tcp_tuple(int fd) {
  sockaddr_storage names[2]{};
  socklen_t sizes[2] = {sizeof names[0], sizeof names[1]};
  if (::getsockname(fd, reinterpret_cast<sockaddr*>(&names[0]), &sizes[0]) != 0 ||
      ::getpeername(fd, reinterpret_cast<sockaddr*>(&names[1]), &sizes[1]) != 0) {
    return std::nullopt;
  }
  const auto bytes = [&](int i) {
    return std::as_bytes(std::span(&names[i], 1))
        .first(std::min<size_t>(sizes[i], sizeof names[i]));
  };
  return tcp_tuple(bytes(0), bytes(1));
}

TcpSilence::TcpSilence(UniqueFd netlink) : netlink_(std::move(netlink)) {
  if (!netlink_) throw Error("socket(NETLINK_NETFILTER)", errno, {});
  sockaddr_nl any{};
  any.nl_family = AF_NETLINK;
  if (::bind(netlink_.get(), reinterpret_cast<const sockaddr*>(&any), sizeof any) != 0) {
    throw_errno("bind", "netlink");
  }
  const Bytes name = text(table_name(netlink_.get()));
  Batch batch;
  batch.add(
      NFT_MSG_NEWTABLE, NLM_F_CREATE | NLM_F_EXCL,
      {attribute(NFTA_TABLE_NAME, name), attribute(NFTA_TABLE_FLAGS, number(NFT_TABLE_F_OWNER))});
  add_set(batch, attribute(NFTA_SET_TABLE, name), kFour, 1);
  add_set(batch, attribute(NFTA_SET_TABLE, name), kSix, 2);
  for (const auto& [chain, hook] :
       {std::pair<const char*, uint32_t>{"in", NF_INET_LOCAL_IN}, {"out", NF_INET_LOCAL_OUT}}) {
    batch.add(NFT_MSG_NEWCHAIN, NLM_F_CREATE,
              {attribute(NFTA_CHAIN_TABLE, name), attribute(NFTA_CHAIN_NAME, text(chain)),
               nested(NFTA_CHAIN_HOOK,
                      {attribute(NFTA_HOOK_HOOKNUM, number(hook)),
                       attribute(NFTA_HOOK_PRIORITY, number(static_cast<uint32_t>(kRawPriority)))}),
               attribute(NFTA_CHAIN_TYPE, text("filter"))});
    for (const Version& version : {kFour, kSix}) {
      add_rule(batch, attribute(NFTA_RULE_TABLE, name), chain, version);
    }
  }
  if (const int error = batch.commit(netlink_.get()); error != 0) {
    throw Error("nf_tables", error, {});
  }
}

void TcpSilence::add(const std::vector<TcpTuple>& tuples) {
  const Bytes table = attribute(NFTA_SET_ELEM_LIST_TABLE, text(table_name(netlink_.get())));
  for (const Version& version : {kFour, kSix}) {
    std::vector<TcpTuple> own;
    std::ranges::copy_if(tuples, std::back_inserter(own), [&](const TcpTuple& tuple) {
      return tuple.four == (version.family == NFPROTO_IPV4);
    });
    for (size_t first = 0; first < own.size(); first += kMostAtOnce) {
      Bytes elements;
      for (size_t i = first; i < std::min(own.size(), first + kMostAtOnce); ++i) {
        for (const bool comes_in : {true, false}) {
          const Bytes one =
              nested(NFTA_LIST_ELEM,
                     {nested(NFTA_SET_ELEM_KEY,
                             {attribute(NFTA_DATA_VALUE, key(version, comes_in, own[i]))})});
          elements.insert(elements.end(), one.begin(), one.end());
        }
      }
      Batch batch;
      batch.add(NFT_MSG_NEWSETELEM, NLM_F_CREATE,
                {table, attribute(NFTA_SET_ELEM_LIST_SET, text(version.set)),
                 attribute(NFTA_SET_ELEM_LIST_ELEMENTS | NLA_F_NESTED, elements)});
      if (const int error = batch.commit(netlink_.get()); error != 0) {
        throw Error("nf_tables", error, "connections");
      }
    }
  }
  await_packets_under_way();
}

void TcpSilence::lift() {
  if (!netlink_) return;
  try {
    Batch batch;
    batch.add(NFT_MSG_DELTABLE, 0, {attribute(NFTA_TABLE_NAME, text(table_name(netlink_.get())))});
    (void)batch.commit(netlink_.get());
  } catch (const std::exception&) {
    // The kernel removes it with the socket.
  }
  netlink_.reset();
}

}  // namespace rfork
