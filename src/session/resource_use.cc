#include "session/resource_use.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <unistd.h>

#include <array>
#include <charconv>

#include "base/io.h"

namespace rfork::session {

namespace {

constexpr int64_t kSecond = 1'000'000'000;

int64_t nanoseconds(const timeval& time) {
  return time.tv_sec * kSecond + time.tv_usec * 1000;
}

}  // namespace

std::optional<ProcessLook> parse_stat(std::string_view text) {
  // The name is in brackets, and may have blanks and brackets itself; behind it comes field 3.
  enum Field : size_t { kState = 3, kUserTime = 14, kSystemTime, kThreads = 20, kResident = 24 };
  const size_t bracket = text.rfind(')');
  if (bracket == std::string_view::npos) return std::nullopt;
  text.remove_prefix(bracket + 1);
  std::array<std::string_view, kResident + 1> words;
  for (size_t field = kState; field < words.size(); ++field) {
    const size_t start = text.find_first_not_of(' ');
    if (start == std::string_view::npos) return std::nullopt;
    text.remove_prefix(start);
    words.at(field) = text.substr(0, text.find_first_of(" \n"));
    text.remove_prefix(words.at(field).size());
  }
  bool valid = true;
  const auto number = [&](Field field) {
    const std::string_view word = words.at(field);
    int64_t value = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value);
    valid = valid && error == std::errc{} && end == word.data() + word.size();
    return value;
  };
  const int64_t tick = kSecond / ::sysconf(_SC_CLK_TCK);
  ProcessLook look;
  look.state = words[kState][0];
  look.use.known = true;
  look.use.cpu_ns = (number(kUserTime) + number(kSystemTime)) * tick;
  look.use.threads = static_cast<int32_t>(number(kThreads));
  look.use.resident_bytes = number(kResident) * ::sysconf(_SC_PAGESIZE);
  return valid ? std::optional(look) : std::nullopt;
}

std::optional<ProcessLook> look_at(pid_t pid) {
  const auto text = try_read_file_at(AT_FDCWD, fmt::format("/proc/{}/stat", pid));
  return text ? parse_stat(*text) : std::nullopt;
}

ResourceUse final_use(const rusage& usage) {
  return {true, nanoseconds(usage.ru_utime) + nanoseconds(usage.ru_stime), 0,
          usage.ru_maxrss * 1024, 0};
}

}  // namespace rfork::session
