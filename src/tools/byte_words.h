// Byte strings of an image that are structs of the kernel's: their fields by name.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <string>

#include "base/io.h"

namespace rfork::tools {

using ByteSpan = std::span<const std::byte>;

/// `SIGUSR1 SI_QUEUE of pid 17 uid 0, value 0x5`, of a siginfo_t.
std::string siginfo_words(ByteSpan bytes);
/// struct user_regs_struct as an object.
nlohmann::json registers_json(ByteSpan bytes);
std::string registers_words(ByteSpan bytes);
/// Control words and rounding modes of FXSAVE's area.
std::string floating_point_words(ByteSpan bytes);
/// Which components the XSAVE area has a state of.
std::string xsave_words(ByteSpan bytes);
/// `AT_PAGESZ 4096, ...`.
std::string auxv_words(ByteSpan bytes);
/// struct termios2.
std::string terminal_mode_words(ByteSpan bytes);
/// struct winsize.
std::string window_size_words(ByteSpan bytes);
/// struct sockaddr: `127.0.0.1:80`, `/run/socket`, `@abstract`.
std::string socket_address_words(ByteSpan bytes);
/// struct sock_filter[].
std::string filter_words(ByteSpan bytes);
/// The value of a socket option: `1`, `2 s`, `cubic`.
std::string option_words(ByteSpan bytes);
/// The same where the option's name tells more: `IP_PMTUDISC_DO`, `unlimited`.
std::string named_option_words(const std::string& name, ByteSpan bytes);
/// The protocol of socket(2): `IPPROTO_TCP`, `NETLINK_ROUTE`.
std::string protocol_words(uint64_t family, uint64_t protocol);
/// Their number, and the first ones in hexadecimal.
std::string byte_string_words(ByteSpan bytes);

}  // namespace rfork::tools
