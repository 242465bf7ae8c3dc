#include "tools/byte_words.h"

#include <arpa/inet.h>
#include <asm/termbits.h>
#include <elf.h>
#include <fmt/format.h>
#include <linux/filter.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>
#include <sys/user.h>

#include <algorithm>
#include <csignal>
#include <cstring>

#include "base/text.h"
#include "tools/kernel_words.h"
#include "tools/process_words.h"
#include "tools/words.h"

namespace rfork::tools {

namespace {

using nlohmann::json;

/// As much of T as there is; the rest is zero.
template <typename T>
T value_in(ByteSpan bytes, size_t at = 0) {
  T value{};
  if (at < bytes.size()) {
    std::memcpy(&value, bytes.data() + at, std::min(sizeof value, bytes.size() - at));
  }
  return value;
}

constexpr Word kAuxv[] = {
    {AT_PHDR, "AT_PHDR"},
    {AT_PHENT, "AT_PHENT"},
    {AT_PHNUM, "AT_PHNUM"},
    {AT_PAGESZ, "AT_PAGESZ"},
    {AT_BASE, "AT_BASE"},
    {AT_FLAGS, "AT_FLAGS"},
    {AT_ENTRY, "AT_ENTRY"},
    {AT_UID, "AT_UID"},
    {AT_EUID, "AT_EUID"},
    {AT_GID, "AT_GID"},
    {AT_EGID, "AT_EGID"},
    {AT_PLATFORM, "AT_PLATFORM"},
    {AT_HWCAP, "AT_HWCAP"},
    {AT_CLKTCK, "AT_CLKTCK"},
    {AT_SECURE, "AT_SECURE"},
    {AT_RANDOM, "AT_RANDOM"},
    {AT_HWCAP2, "AT_HWCAP2"},
    {27, "AT_RSEQ_FEATURE_SIZE"},
    {28, "AT_RSEQ_ALIGN"},
    {AT_EXECFN, "AT_EXECFN"},
    {AT_SYSINFO_EHDR, "AT_SYSINFO_EHDR"},
    {AT_MINSIGSTKSZ, "AT_MINSIGSTKSZ"},
};

// bits/siginfo-consts.h.
std::string signal_code_word(int signal, int code) {
  constexpr Word kAny[] = {{0, "SI_USER"},           {0x80, "SI_KERNEL"},
                           {0xffffffff, "SI_QUEUE"}, {0xfffffffe, "SI_TIMER"},
                           {0xfffffffd, "SI_MESGQ"}, {0xfffffffc, "SI_ASYNCIO"},
                           {0xfffffffb, "SI_SIGIO"}, {0xfffffffa, "SI_TKILL"}};
  constexpr Word kChild[] = {{1, "CLD_EXITED"},  {2, "CLD_KILLED"},  {3, "CLD_DUMPED"},
                             {4, "CLD_TRAPPED"}, {5, "CLD_STOPPED"}, {6, "CLD_CONTINUED"}};
  constexpr Word kPoll[] = {{1, "POLL_IN"},  {2, "POLL_OUT"}, {3, "POLL_MSG"},
                            {4, "POLL_ERR"}, {5, "POLL_PRI"}, {6, "POLL_HUP"}};
  const auto number = static_cast<uint32_t>(code);
  if (code > 0 && code < 7 && signal == SIGCHLD) return value_word(number, kChild);
  if (code > 0 && code < 7 && signal == SIGIO) return value_word(number, kPoll);
  return value_word(number, kAny);
}

}  // namespace

std::string siginfo_words(ByteSpan bytes) {
  const auto info = value_in<siginfo_t>(bytes);
  std::string text = fmt::format("{} {}", signal_word(info.si_signo),
                                 signal_code_word(info.si_signo, info.si_code));
  if (info.si_code == SI_TIMER) {
    return text + fmt::format(" timer {}, overrun {}", info.si_timerid, info.si_overrun);
  }
  if (info.si_signo == SIGCHLD && info.si_code > 0) {
    return text + fmt::format(" pid {}, status {}", info.si_pid, info.si_status);
  }
  if (info.si_code <= 0) text += fmt::format(" of pid {} uid {}", info.si_pid, info.si_uid);
  if (info.si_code == SI_QUEUE) {
    text += fmt::format(", value {:#x}", reinterpret_cast<uintptr_t>(info.si_value.sival_ptr));
  }
  return text;
}

json registers_json(ByteSpan bytes) {
  const auto r = value_in<user_regs_struct>(bytes);
  return {{"r15", r.r15},
          {"r14", r.r14},
          {"r13", r.r13},
          {"r12", r.r12},
          {"rbp", r.rbp},
          {"rbx", r.rbx},
          {"r11", r.r11},
          {"r10", r.r10},
          {"r9", r.r9},
          {"r8", r.r8},
          {"rax", r.rax},
          {"rcx", r.rcx},
          {"rdx", r.rdx},
          {"rsi", r.rsi},
          {"rdi", r.rdi},
          {"orig_rax", r.orig_rax},
          {"rip", r.rip},
          {"cs", r.cs},
          {"eflags", r.eflags},
          {"rsp", r.rsp},
          {"ss", r.ss},
          {"fs_base", r.fs_base},
          {"gs_base", r.gs_base},
          {"ds", r.ds},
          {"es", r.es},
          {"fs", r.fs},
          {"gs", r.gs}};
}

std::string registers_words(ByteSpan bytes) {
  std::string text;
  const json registers = registers_json(bytes);
  for (const auto& [name, value] : registers.items()) {
    text += fmt::format("{}{} {:#x}", text.empty() ? "" : " ", name, value.get<uint64_t>());
  }
  return text;
}

std::string floating_point_words(ByteSpan bytes) {
  const auto area = value_in<user_fpregs_struct>(bytes);
  constexpr Word kRounding[] = {{0, "to nearest"}, {1, "down"}, {2, "up"}, {3, "to zero"}};
  return fmt::format(
      "control word {:#x} (rounding {}), status word {:#x}, mxcsr {:#x} (rounding {})", area.cwd,
      value_word(area.cwd >> 10 & 3u, kRounding), area.swd, area.mxcsr,
      value_word(area.mxcsr >> 13 & 3u, kRounding));
}

std::string xsave_words(ByteSpan bytes) {
  constexpr size_t kHeader = 512;  // Intel 64 SDM, volume 1, 13.4.2
  const std::string used = xstate_words(value_in<uint64_t>(bytes, kHeader));
  return fmt::format("{} bytes, in use: {}", bytes.size(), used.empty() ? "nothing" : used);
}

std::string auxv_words(ByteSpan bytes) {
  std::string text;
  for (size_t at = 0; at + sizeof(Elf64_auxv_t) <= bytes.size(); at += sizeof(Elf64_auxv_t)) {
    const auto entry = value_in<Elf64_auxv_t>(bytes, at);
    if (entry.a_type == AT_NULL) break;
    const bool number = entry.a_un.a_val < 65536;
    text += fmt::format(
        "{}{} {}", text.empty() ? "" : ", ", value_word(entry.a_type, kAuxv),
        number ? std::to_string(entry.a_un.a_val) : fmt::format("{:#x}", entry.a_un.a_val));
  }
  return text;
}

std::string terminal_mode_words(ByteSpan bytes) {
  constexpr Word kInput[] = {{IGNBRK, "IGNBRK"},   {BRKINT, "BRKINT"}, {IGNPAR, "IGNPAR"},
                             {PARMRK, "PARMRK"},   {INPCK, "INPCK"},   {ISTRIP, "ISTRIP"},
                             {INLCR, "INLCR"},     {IGNCR, "IGNCR"},   {ICRNL, "ICRNL"},
                             {IXON, "IXON"},       {IXANY, "IXANY"},   {IXOFF, "IXOFF"},
                             {IMAXBEL, "IMAXBEL"}, {IUTF8, "IUTF8"}};
  constexpr Word kOutput[] = {{OPOST, "OPOST"}, {OLCUC, "OLCUC"}, {ONLCR, "ONLCR"},
                              {OCRNL, "OCRNL"}, {ONOCR, "ONOCR"}, {ONLRET, "ONLRET"}};
  constexpr Word kControl[] = {{CS8, "CS8"},        {CS7, "CS7"},     {CS6, "CS6"},
                               {CSTOPB, "CSTOPB"},  {CREAD, "CREAD"}, {PARENB, "PARENB"},
                               {PARODD, "PARODD"},  {HUPCL, "HUPCL"}, {CLOCAL, "CLOCAL"},
                               {CRTSCTS, "CRTSCTS"}};
  constexpr Word kLocal[] = {{ISIG, "ISIG"},     {ICANON, "ICANON"}, {ECHO, "ECHO"},
                             {ECHOE, "ECHOE"},   {ECHOK, "ECHOK"},   {ECHONL, "ECHONL"},
                             {NOFLSH, "NOFLSH"}, {TOSTOP, "TOSTOP"}, {ECHOCTL, "ECHOCTL"},
                             {ECHOKE, "ECHOKE"}, {IEXTEN, "IEXTEN"}};
  const auto modes = value_in<termios2>(bytes);
  return fmt::format("c_iflag {}; c_oflag {}; c_cflag {}; c_lflag {}; {} baud",
                     bit_words(modes.c_iflag, kInput), bit_words(modes.c_oflag, kOutput),
                     bit_words(modes.c_cflag & ~static_cast<unsigned>(CBAUD | CIBAUD), kControl),
                     bit_words(modes.c_lflag, kLocal), modes.c_ospeed);
}

std::string window_size_words(ByteSpan bytes) {
  return fmt::format("{} rows, {} columns", value_in<uint16_t>(bytes),
                     value_in<uint16_t>(bytes, sizeof(uint16_t)));
}

std::string socket_address_words(ByteSpan bytes) {
  char text[INET6_ADDRSTRLEN]{};
  switch (value_in<sa_family_t>(bytes)) {
    case AF_INET: {
      const auto address = value_in<sockaddr_in>(bytes);
      ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
      return fmt::format("{}:{}", text, ntohs(address.sin_port));
    }
    case AF_INET6: {
      const auto address = value_in<sockaddr_in6>(bytes);
      ::inet_ntop(AF_INET6, &address.sin6_addr, text, sizeof text);
      return fmt::format("[{}]:{}", text, ntohs(address.sin6_port));
    }
    case AF_UNIX: {
      const auto* const path = reinterpret_cast<const char*>(bytes.data()) + sizeof(sa_family_t);
      std::string name(path, bytes.size() - std::min(bytes.size(), sizeof(sa_family_t)));
      if (name.empty()) return "AF_UNIX, no name";
      if (name[0] == '\0') return "@" + plain(name.substr(1));
      return plain(name.substr(0, name.find('\0')));
    }
    case AF_NETLINK: {
      const auto address = value_in<sockaddr_nl>(bytes);
      return fmt::format("AF_NETLINK port {}, groups {:#x}", address.nl_pid, address.nl_groups);
    }
    default:
      return byte_string_words(bytes);
  }
}

std::string filter_words(ByteSpan bytes) {
  return fmt::format("{} BPF instructions", bytes.size() / sizeof(sock_filter));
}

std::string option_words(ByteSpan bytes) {
  if (bytes.size() == sizeof(int)) return std::to_string(value_in<int>(bytes));
  const std::string text(reinterpret_cast<const char*>(bytes.data()), bytes.size());
  const std::string name = text.substr(0, text.find('\0'));  // of TCP_CONGESTION, SO_BINDTODEVICE
  const auto is_printable = [](unsigned char one) { return one > ' ' && one < 127; };
  if (name.size() > 1 && std::ranges::all_of(name, is_printable)) return name;
  if (bytes.size() == sizeof(timeval)) {
    const auto time = value_in<timeval>(bytes);
    return duration_words((time.tv_sec * 1'000'000 + time.tv_usec) * 1000);
  }
  return byte_string_words(bytes);
}

namespace {

// Numbers as in <linux/in.h> and <linux/in6.h>, which can't be had beside libc's.
constexpr Word kPathMtu[] = {{0, "PMTUDISC_DONT"},      {1, "PMTUDISC_WANT"},
                             {2, "PMTUDISC_DO"},        {3, "PMTUDISC_PROBE"},
                             {4, "PMTUDISC_INTERFACE"}, {5, "PMTUDISC_OMIT"}};
constexpr Word kPreferences[] = {
    {0x1, "IPV6_PREFER_SRC_TMP"},     {0x2, "IPV6_PREFER_SRC_PUBLIC"},
    {0x4, "IPV6_PREFER_SRC_COA"},     {0x100, "IPV6_PREFER_SRC_PUBTMP_DEFAULT"},
    {0x400, "IPV6_PREFER_SRC_HOME"},  {0x8, "IPV6_PREFER_SRC_CGA"},
    {0x800, "IPV6_PREFER_SRC_NONCGA"}};

}  // namespace

std::string named_option_words(const std::string& name, ByteSpan bytes) {
  if (name == "SO_MAX_PACING_RATE" && bytes.size() == sizeof(uint64_t)) {
    const auto rate = value_in<uint64_t>(bytes);
    return rate == ~uint64_t{0} ? "unlimited" : fmt::format("{} bytes/s", rate);
  }
  if (bytes.size() != sizeof(int)) return option_words(bytes);
  const auto value = value_in<uint32_t>(bytes);
  const bool ipv6 = name.starts_with("IPV6_");
  if (name.ends_with("_MTU_DISCOVER"))
    return value < std::size(kPathMtu) ? (ipv6 ? "IPV6_" : "IP_") + value_word(value, kPathMtu)
                                       : std::to_string(value);
  if (name == "IPV6_ADDR_PREFERENCES") return bit_words(value, kPreferences);
  return option_words(bytes);
}

std::string protocol_words(uint64_t family, uint64_t protocol) {
  constexpr Word kInternet[] = {
      {IPPROTO_IP, "IPPROTO_IP"},     {IPPROTO_ICMP, "IPPROTO_ICMP"},
      {IPPROTO_IGMP, "IPPROTO_IGMP"}, {IPPROTO_TCP, "IPPROTO_TCP"},
      {IPPROTO_UDP, "IPPROTO_UDP"},   {IPPROTO_DCCP, "IPPROTO_DCCP"},
      {IPPROTO_GRE, "IPPROTO_GRE"},   {IPPROTO_ESP, "IPPROTO_ESP"},
      {IPPROTO_AH, "IPPROTO_AH"},     {IPPROTO_ICMPV6, "IPPROTO_ICMPV6"},
      {IPPROTO_SCTP, "IPPROTO_SCTP"}, {IPPROTO_UDPLITE, "IPPROTO_UDPLITE"},
      {IPPROTO_RAW, "IPPROTO_RAW"},   {262, "IPPROTO_MPTCP"}};
  constexpr Word kNetlink[] = {{NETLINK_ROUTE, "NETLINK_ROUTE"},
                               {NETLINK_SOCK_DIAG, "NETLINK_SOCK_DIAG"},
                               {NETLINK_XFRM, "NETLINK_XFRM"},
                               {NETLINK_AUDIT, "NETLINK_AUDIT"},
                               {NETLINK_NETFILTER, "NETLINK_NETFILTER"},
                               {NETLINK_CONNECTOR, "NETLINK_CONNECTOR"},
                               {NETLINK_KOBJECT_UEVENT, "NETLINK_KOBJECT_UEVENT"},
                               {NETLINK_GENERIC, "NETLINK_GENERIC"}};
  const auto word = [&](std::span<const Word> words) {
    const auto found = std::ranges::find(words, protocol, &Word::value);
    return found == words.end() ? std::to_string(protocol) : found->name;
  };
  if (family == AF_INET || family == AF_INET6) return word(kInternet);
  if (family == AF_NETLINK) return word(kNetlink);
  if (family == AF_PACKET)  // as socket(2) is given it, in network order
    return fmt::format("ethertype {:#06x}", ntohs(static_cast<uint16_t>(protocol)));
  return std::to_string(protocol);
}

std::string byte_string_words(ByteSpan bytes) {
  constexpr size_t kShown = 16;
  return fmt::format("{} bytes: {}{}", bytes.size(),
                     to_hex(bytes.first(std::min(kShown, bytes.size()))),
                     bytes.size() > kShown ? "…" : "");
}

}  // namespace rfork::tools
