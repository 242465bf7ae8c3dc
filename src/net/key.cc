#include "net/key.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <openssl/crypto.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <span>

#include "base/error.h"
#include "base/io.h"
#include "base/text.h"

namespace rfork::net {

namespace {

constexpr std::string_view kMakeAdvice = "rforkd --make-key FILE makes one; copy it to both hosts";

[[noreturn]] void refuse(const std::string& path, std::string_view why,
                         std::string_view advice = kMakeAdvice) {
  throw Refusal(Failure::usage, fmt::format("key file {}: {}", path, why), std::string(advice));
}

}  // namespace

Key::~Key() {
  OPENSSL_cleanse(bytes_.data(), bytes_.size());
}

void make_key_file(const std::string& path) {
  std::array<std::byte, kKeySize> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    throw_errno("getrandom");
  }
  const UniqueFd file = try_open(path, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  if (!file && errno == EEXIST) {
    refuse(path, "it exists already, and is not overwritten", "choose another name, or remove it");
  }
  if (!file) throw_errno("open", path);
  const std::string text = to_hex(bytes) + "\n";
  try {
    if (fchmod(file.get(), 0600) != 0) throw_errno("fchmod", path);  // whatever the umask was
    write_full(file.get(), as_bytes(text), path);
    if (fsync(file.get()) != 0) throw_errno("fsync", path);
  } catch (...) {
    ::unlink(path.c_str());
    throw;
  }
}

Key load_key(const std::string& path) {
  const UniqueFd file = try_open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  if (!file) refuse(path, std::strerror(errno));
  struct stat facts {};
  if (fstat(file.get(), &facts) != 0) throw_errno("fstat", path);
  if (!S_ISREG(facts.st_mode)) refuse(path, "it is no regular file");
  if ((facts.st_mode & 077) != 0) {
    refuse(path, fmt::format("others may read or write it (mode {:04o})", facts.st_mode & 07777),
           fmt::format("chmod 600 {}, and make a new key if someone may have read it", path));
  }
  // One byte more than a key with its newline, so that a longer file is seen to be longer.
  std::array<char, 2 * kKeySize + 2> buffer{};
  const size_t size = read_full(file.get(), std::as_writable_bytes(std::span(buffer)), path);
  std::string_view text(buffer.data(), size);
  if (text.ends_with('\n')) text.remove_suffix(1);
  const auto bytes = text.size() == 2 * kKeySize ? from_hex(text) : std::nullopt;
  OPENSSL_cleanse(buffer.data(), buffer.size());
  if (!bytes) refuse(path, fmt::format("it does not hold {} hexadecimal digits", 2 * kKeySize));
  std::array<std::byte, kKeySize> key{};
  std::copy(bytes->begin(), bytes->end(), key.begin());
  return Key(key);
}

}  // namespace rfork::net
