#include "tracer/proc_text.h"

#include <sys/resource.h>
#include <sys/sysmacros.h>

#include <algorithm>
#include <charconv>
#include <stdexcept>

namespace rfork::tracer {

namespace {

std::string_view trim(std::string_view text) {
  const size_t first = text.find_first_not_of(" \t\n");
  if (first == std::string_view::npos) return {};
  return text.substr(first, text.find_last_not_of(" \t\n") - first + 1);
}

uint64_t number(std::string_view text, int base) {
  uint64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc() || end != text.data() + text.size()) {
    throw std::invalid_argument("not a number: " + std::string(text));
  }
  return value;
}

// Takes the part before `separator` off the front of `text`.
std::string_view take(std::string_view& text, char separator) {
  const size_t end = text.find(separator);
  const std::string_view part = text.substr(0, end);
  text = end == std::string_view::npos ? std::string_view{} : text.substr(end + 1);
  return part;
}

/// `escaped`: the characters that this text of proc writes as \ and three octal digits.
std::string unescape(std::string_view text, std::string_view escaped) {
  std::string out;
  for (size_t i = 0; i < text.size(); ++i) {
    unsigned value = 0;
    const std::string_view digits = text.substr(i, 4);
    if (digits.size() == 4 && digits[0] == '\\' &&
        std::from_chars(digits.data() + 1, digits.data() + 4, value, 8).ptr == digits.data() + 4 &&
        value < 128 && escaped.find(static_cast<char>(value)) != std::string_view::npos) {
      out += static_cast<char>(value);
      i += 3;
    } else {
      out += text[i];
    }
  }
  return out;
}

MapsLine parse_maps_line(std::string_view line) {
  const std::string whole(line);
  try {
    MapsLine result;
    result.range.start = number(take(line, '-'), 16);
    result.range.end = number(take(line, ' '), 16);
    const std::string_view permissions = take(line, ' ');
    if (permissions.size() != 4 || result.range.start >= result.range.end)
      throw std::invalid_argument("");
    result.read = permissions[0] == 'r';
    result.write = permissions[1] == 'w';
    result.execute = permissions[2] == 'x';
    result.shared = permissions[3] == 's';
    result.offset = number(take(line, ' '), 16);
    const auto major_number = static_cast<unsigned>(number(take(line, ':'), 16));
    const auto minor_number = static_cast<unsigned>(number(take(line, ' '), 16));
    result.device = makedev(major_number, minor_number);
    result.inode = number(take(line, ' '), 10);
    const size_t name = line.find_first_not_of(' ');
    if (name != std::string_view::npos) result.name = unescape(line.substr(name), "\n");
    constexpr std::string_view kDeleted = " (deleted)";
    if (result.name.ends_with(kDeleted)) {
      result.name.resize(result.name.size() - kDeleted.size());
      result.deleted = true;
    }
    return result;
  } catch (const std::invalid_argument&) {
    throw std::invalid_argument("/proc/PID/maps has a line that is none: " + whole);
  }
}

}  // namespace

std::vector<std::string_view> split(std::string_view text, char separator) {
  std::vector<std::string_view> parts;
  while (!text.empty()) {
    const std::string_view part = take(text, separator);
    if (!part.empty()) parts.push_back(part);
  }
  return parts;
}

std::vector<MapsLine> parse_maps(std::string_view text) {
  std::vector<MapsLine> lines;
  for (const std::string_view line : split(text, '\n')) {
    MapsLine parsed = parse_maps_line(line);
    if (parsed.name != "[vsyscall]") lines.push_back(std::move(parsed));
  }
  return lines;
}

std::vector<Mount> parse_mountinfo(std::string_view text) {
  std::vector<Mount> mounts;
  for (const std::string_view line : split(text, '\n')) {
    const auto fields = split(line, ' ');
    const auto separator = std::ranges::find(fields, "-");
    if (fields.size() < 5 || separator == fields.end() || separator + 1 == fields.end()) {
      throw std::invalid_argument("/proc/PID/mountinfo has a line that is none: " +
                                  std::string(line));
    }
    std::string_view device = fields[2];
    const auto major_number = static_cast<unsigned>(number(take(device, ':'), 10));
    const auto minor_number = static_cast<unsigned>(number(device, 10));
    mounts.push_back({number(fields[0], 10), unescape(fields[4], " \t\n\\#"),
                      makedev(major_number, minor_number), *(separator + 1) == "proc"});
  }
  return mounts;
}

bool SmapsEntry::has(std::string_view flag) const {
  return std::find(flags.begin(), flags.end(), flag) != flags.end();
}

std::vector<SmapsEntry> parse_smaps(std::string_view text) {
  std::vector<SmapsEntry> entries;
  for (std::string_view line : split(text, '\n')) {
    const bool is_header = line[0] >= '0' &&
                           (line[0] <= '9' || (line[0] >= 'a' && line[0] <= 'f')) &&
                           line.find('-') < line.find(' ');
    if (is_header) {
      SmapsEntry entry;
      entry.range.start = number(take(line, '-'), 16);
      entry.range.end = number(take(line, ' '), 16);
      entries.push_back(std::move(entry));
    } else if (entries.empty()) {
      throw std::invalid_argument("/proc/PID/smaps does not begin with a mapping");
    } else if (line.starts_with("KernelPageSize:")) {
      const auto parts = split(line, ' ');
      entries.back().kernel_page_size = number(parts.at(1), 10) * 1024;
    } else if (line.starts_with("Swap:")) {
      entries.back().swapped = number(split(line, ' ').at(1), 10) * 1024;
    } else if (line.starts_with("ProtectionKey:")) {
      entries.back().protection_key = static_cast<int>(number(split(line, ' ').at(1), 10));
    } else if (line.starts_with("VmFlags:")) {
      for (const std::string_view flag : split(line.substr(8), ' ')) {
        entries.back().flags.emplace_back(flag);
      }
    }
  }
  return entries;
}

std::map<std::string, std::string, std::less<>> parse_status(std::string_view text) {
  std::map<std::string, std::string, std::less<>> values;
  for (std::string_view line : split(text, '\n')) {
    const std::string_view key = take(line, ':');
    values.emplace(key, trim(line));
  }
  return values;
}

std::vector<std::string> parse_stat_fields(std::string_view text) {
  const size_t name_end = text.rfind(')');
  if (name_end == std::string_view::npos) throw std::invalid_argument("/proc/PID/stat has no name");
  std::vector<std::string> fields;
  for (const std::string_view field : split(trim(text.substr(name_end + 1)), ' ')) {
    fields.emplace_back(field);
  }
  if (fields.size() < 50) throw std::invalid_argument("/proc/PID/stat has too few fields");
  return fields;
}

std::array<image::Limit, 16> parse_limits(std::string_view text) {
  struct Name {
    int resource;
    std::string_view name;
  };
  static constexpr Name kNames[] = {
      {RLIMIT_CPU, "Max cpu time"},
      {RLIMIT_FSIZE, "Max file size"},
      {RLIMIT_DATA, "Max data size"},
      {RLIMIT_STACK, "Max stack size"},
      {RLIMIT_CORE, "Max core file size"},
      {RLIMIT_RSS, "Max resident set"},
      {RLIMIT_NPROC, "Max processes"},
      {RLIMIT_NOFILE, "Max open files"},
      {RLIMIT_MEMLOCK, "Max locked memory"},
      {RLIMIT_AS, "Max address space"},
      {RLIMIT_LOCKS, "Max file locks"},
      {RLIMIT_SIGPENDING, "Max pending signals"},
      {RLIMIT_MSGQUEUE, "Max msgqueue size"},
      {RLIMIT_NICE, "Max nice priority"},
      {RLIMIT_RTPRIO, "Max realtime priority"},
      {RLIMIT_RTTIME, "Max realtime timeout"},
  };
  const auto value = [](std::string_view word) {
    return word == "unlimited" ? ~uint64_t{0} : number(word, 10);
  };
  std::array<image::Limit, 16> limits{};
  size_t found = 0;
  for (const std::string_view line : split(text, '\n')) {
    for (const Name& name : kNames) {
      if (!line.starts_with(name.name)) continue;
      const auto words = split(line.substr(name.name.size()), ' ');
      limits[static_cast<size_t>(name.resource)] = {value(words.at(0)), value(words.at(1))};
      ++found;
    }
  }
  if (found != limits.size()) throw std::invalid_argument("/proc/PID/limits lacks a limit");
  return limits;
}

Locks parse_locks(std::string_view fdinfo) {
  using Kind = image::FileLock::Kind;
  constexpr std::pair<std::string_view, Kind> kKinds[] = {{"POSIX", Kind::posix},
                                                          {"OFDLCK", Kind::description},
                                                          {"FLOCK", Kind::flock},
                                                          {"LEASE", Kind::lease}};
  Locks locks;
  for (std::string_view line : split(fdinfo, '\n')) {
    if (trim(take(line, ':')) != "lock") continue;
    // 1: POSIX  ADVISORY  WRITE 4242 00:1f:5678 0 EOF
    const auto words = split(line, ' ');
    if (words.size() < 8) throw std::invalid_argument(std::string(line));
    const auto kind = std::ranges::find(kKinds, words[1], [](const auto& k) { return k.first; });
    if (kind == std::end(kKinds) || words[2] == "BREAKING") {
      locks.emplace_back(kind == std::end(kKinds) ? std::string(words[1]) : kBreakingLease);
      continue;
    }
    image::FileLock lock{kind->second, words[3] == "WRITE", number(words[6], 10), 0};
    if (words[7] != "EOF") lock.size = number(words[7], 10) - lock.start + 1;
    locks.emplace_back(lock);
  }
  return locks;
}

std::optional<std::string> value_of(std::string_view text, std::string_view key) {
  for (std::string_view line : split(text, '\n')) {
    const std::string_view name = trim(take(line, ':'));
    if (name == key) return std::string(trim(line));
  }
  return std::nullopt;
}

}  // namespace rfork::tracer
