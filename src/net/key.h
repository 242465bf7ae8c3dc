// The pre-shared key: 32 random bytes that both ends hold, kept as hexadecimal in a file of mode
// 0600.
//
// A key and nothing else says who may restore on a host. Certificates were rejected: they bring a
// clock, an authority and revocation to a tool whose users copy one file from one host to the
// other.
#pragma once

#include <array>
#include <cstddef>
#include <string>

namespace rfork::net {

inline constexpr size_t kKeySize = 32;

/// Wiped when it goes.
class Key {
 public:
  explicit Key(const std::array<std::byte, kKeySize>& bytes) : bytes_(bytes) {}
  Key(const Key&) = default;
  Key& operator=(const Key&) = default;
  ~Key();

  const std::array<std::byte, kKeySize>& bytes() const { return bytes_; }

 private:
  std::array<std::byte, kKeySize> bytes_;
};

/// Writes a new key to `path`, which must not exist; mode 0600. Throws Refusal(usage) when it
/// exists, Error else.
void make_key_file(const std::string& path);

/// Throws Refusal(usage) in one clear line when the file is missing, malformed, no regular file, or
/// open to group or others.
Key load_key(const std::string& path);

}  // namespace rfork::net
