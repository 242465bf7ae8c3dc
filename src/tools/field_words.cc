#include "tools/field_words.h"

#include <fcntl.h>
#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <string_view>

#include "image/capability_words.h"
#include "image/memory_policy.h"
#include "tools/byte_words.h"
#include "tools/descriptor_words.h"
#include "tools/kernel_words.h"
#include "tools/process_words.h"
#include "tools/words.h"

namespace rfork::tools {

namespace {

using nlohmann::json;

uint64_t number_in(const json& value) {
  if (value.is_number_unsigned()) return value.get<uint64_t>();
  return static_cast<uint64_t>(value.get<int64_t>());
}

/// Of numbers.
using NumberWords = std::string (*)(uint64_t);
/// Of byte strings.
using BytesWords = std::string (*)(ByteSpan);

std::string octal(uint64_t value) {
  return fmt::format("{:03o}", value);
}
std::string sysv_key(uint64_t value) {
  const auto key = static_cast<uint32_t>(value);
  return key == 0 ? "IPC_PRIVATE" : fmt::format("{:#x}", key);
}
std::string memory_policy(uint64_t value) {
  return image::policy_words({static_cast<int32_t>(value), {}});
}
std::string limit(uint64_t value) {
  return value == ~uint64_t{0} ? "RLIM_INFINITY" : std::to_string(value);
}
std::string signal_name(uint64_t value) {
  return signal_word(static_cast<int>(value));
}
std::string open_flags(uint64_t value) {
  return open_flag_words(static_cast<int32_t>(value));
}
/// Of descriptors that are yet to be opened, which may have what no description has.
std::string event_flags(uint64_t value) {
  return open_flags(value & ~uint64_t{O_CLOEXEC}) + ((value & O_CLOEXEC) != 0 ? "|O_CLOEXEC" : "");
}
std::string handler(uint64_t value) {
  return value == 0 ? "SIG_DFL" : value == 1 ? "SIG_IGN" : fmt::format("{:#x}", value);
}
std::string advice(uint64_t value) {
  return advice_words(static_cast<uint32_t>(value));
}
std::string clock_name(uint64_t value) {
  return clock_word(static_cast<int64_t>(value));
}

// The longest name that a path ends with counts.
const std::map<std::string_view, NumberWords>& number_words() {
  static const std::map<std::string_view, NumberWords> kWords = {
      {"signal_mask", signal_set_words},
      {"actions.signal", signal_name},
      {"actions.flags", action_flag_words},
      {"actions.mask", signal_set_words},
      {"actions.handler", handler},
      {"stop_signal", signal_name},
      {"posix_timers.signal", signal_name},
      {"owner_signal", signal_name},
      {"parent_death_signal", signal_name},
      {"alt_stack.flags", alt_stack_flag_words},
      {"descriptions.flags", open_flags},
      {"descriptions.mode", file_mode_words},
      {"files.mode", file_mode_words},
      {"objects.mode", file_mode_words},
      {"socket.mode", file_mode_words},
      {"objects.seals", seal_words},
      {"segment.key", sysv_key},
      {"segment.mode", octal},
      {"timer.clock", clock_name},
      {"timer.flags", timer_fd_flag_words},
      {"posix_timers.clock", clock_name},
      {"posix_timers.notify", notify_word},
      {"watches.events", epoll_event_words},
      {"inotify.mask", inotify_mask_words},
      {"fanotify.flags", fanotify_flag_words},
      {"fanotify.event_flags", event_flags},
      {"marks.flags", fanotify_mark_flag_words},
      {"marks.mask", fanotify_mask_words},
      {"marks.ignored", fanotify_mask_words},
      {"owner_type", owner_type_word},
      {"terminal.discipline", line_discipline_word},
      {"shut", shutdown_words},
      {"socket.family", socket_family_word},
      {"socket.type", socket_type_word},
      {"umask", octal},
      {"personality", personality_words},
      {"cap_inheritable", image::capability_words},
      {"cap_permitted", image::capability_words},
      {"cap_effective", image::capability_words},
      {"cap_bounding", image::capability_words},
      {"cap_ambient", image::capability_words},
      {"securebits", securebits_words},
      {"limits.soft", limit},
      {"limits.hard", limit},
      {"mappings.protection", protection_words},
      {"mappings.advice", advice},
      {"xcr0", xstate_words},
      {"scheduling.policy", scheduling_policy_word},
      {"scheduling.flags", scheduling_flag_words},
      {"io_priority", io_priority_words},
      {"policy.mode", memory_policy},
      {"memory_policy.mode", memory_policy},
      {"seccomp_mode", seccomp_mode_word},
      {"time_stamp_counter", time_stamp_counter_word},
      {"store_bypass", speculation_words},
      {"indirect_branch", speculation_words},
      {"memory_failure", memory_failure_word},
      {"memory_deny_write_execute", mdwe_words},
      {"dump_filter", dump_filter_words},
      {"membarrier", membarrier_words},
  };
  return kWords;
}

const std::map<std::string_view, BytesWords>& bytes_words() {
  static const std::map<std::string_view, BytesWords> kWords = {
      {"pending", siginfo_words},
      {"registers", registers_words},
      {"floating_point", floating_point_words},
      {"xstate", xsave_words},
      {"auxv", auxv_words},
      {"terminal_modes", terminal_mode_words},
      {"window_size", window_size_words},
      {"socket.name", socket_address_words},
      {"options.value", option_words},
      {"socket.peer", socket_address_words},
      {"messages.from", socket_address_words},
      {"memberships.group", socket_address_words},
      {"memberships.sources", socket_address_words},
      {"filter", filter_words},
      {"program", filter_words},
  };
  return kWords;
}

/// The entry with the longest name that `path` ends with.
template <typename Map>
auto find_suffix(const Map& map, std::string_view path) -> const typename Map::mapped_type* {
  for (;;) {
    if (const auto found = map.find(path); found != map.end()) return &found->second;
    const size_t dot = path.find('.');
    if (dot == std::string_view::npos) return nullptr;
    path.remove_prefix(dot + 1);
  }
}

std::string_view last_name(std::string_view path) {
  return path.substr(path.rfind('.') + 1);
}

/// Fields whose zero says as much as another number: CLOCK_REALTIME, O_RDONLY.
bool counts_from_zero(std::string_view path) {
  constexpr std::string_view kNames[] = {"fd", "wd", "tid", "uid", "gid", "clock"};
  return std::ranges::find(kNames, last_name(path)) != std::end(kNames) ||
         path.ends_with("descriptions.flags");
}

bool is_address(std::string_view path) {
  constexpr std::string_view kNames[] = {
      "address",       "restorer",   "robust_list", "clear_child_tid", "start_code",
      "end_code",      "start_data", "end_data",    "start_brk",       "brk",
      "start_stack",   "arg_start",  "arg_end",     "env_start",       "env_end",
      "address_limit", "signature",  "data",        "device",          "value"};
  return std::ranges::find(kNames, last_name(path)) != std::end(kNames) ||
         path.find(".registers.") != std::string_view::npos;
}

std::optional<std::string> time_text(std::string_view path, const json& value) {
  const std::string_view name = last_name(path);
  constexpr std::string_view kMoments[] = {"realtime_ns", "mtime_ns", "btime_ns", "change_time_ns"};
  const auto number = static_cast<int64_t>(number_in(value));
  if (std::ranges::find(kMoments, name) != std::end(kMoments)) return utc_words(number);
  if (name.ends_with("_ns")) return duration_words(number);
  if (name.ends_with("_us")) return duration_words(number * 1000);
  return std::nullopt;
}

bool is_scalar(const json& value) {
  return !value.is_object() && !value.is_array();
}

/// Lists whose elements stand on one line.
bool is_plain_list(const json& value) {
  return value.is_array() && std::ranges::all_of(value, is_scalar);
}

}  // namespace

std::optional<std::string> field_words(const std::string& path, const json& value) {
  if (value.is_number_integer()) {
    const auto* const words = find_suffix(number_words(), path);
    if (words == nullptr) return std::nullopt;
    return (*words)(number_in(value));
  }
  if (!value.is_binary()) return std::nullopt;
  const auto* const words = find_suffix(bytes_words(), path);
  const auto bytes = std::as_bytes(std::span(value.get_binary()));
  return words == nullptr ? byte_string_words(bytes) : (*words)(bytes);
}

std::string field_text(const std::string& path, const json& value) {
  if (auto words = field_words(path, value)) return words->empty() ? "none" : *words;
  if (value.is_boolean()) return value.get<bool>() ? "yes" : "no";
  if (value.is_string()) return plain(value.get<std::string>());
  if (value.is_null()) return "none";
  if (is_plain_list(value)) {
    std::string text;
    for (const json& element : value) {
      text += (text.empty() ? "" : value[0].is_binary() ? "; " : " ") + field_text(path, element);
    }
    return last_name(path) == "range" && value.size() == 2
               ? fmt::format("{:#x}-{:#x}", number_in(value[0]), number_in(value[1]))
               : text;
  }
  if (!value.is_number_integer()) return value.dump();
  if (auto time = time_text(path, value)) return *time;
  return is_address(path) ? fmt::format("{:#x}", number_in(value)) : value.dump();
}

std::string element_name(const std::string& path, size_t index) {
  const std::string_view name = last_name(path);
  if (name == "limits") return limit_word(index);
  if (name == "timers") return interval_timer_word(index);
  return std::to_string(index);
}

bool is_unset(const json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.get<bool>();
  if (value.is_number_integer()) return number_in(value) == 0;
  if (value.is_string()) return value.get_ref<const std::string&>().empty();
  if (value.is_binary()) return value.get_binary().empty();
  if (value.is_object()) {
    return std::ranges::all_of(value.items(), [](const auto& member) {
      // What it is of isn't what it says.
      return member.key() == "signal" || is_unset(member.value());
    });
  }
  return value.empty();
}

void print_wrapped(const std::string& head, const std::string& text, size_t hanging,
                   std::FILE* out) {
  constexpr size_t kColumns = 100;
  std::string line = head, rest = text;
  while (line.size() + rest.size() > kColumns) {
    const size_t room = kColumns - std::min(line.size(), kColumns - 1);
    size_t cut = rest.rfind(' ', room);
    if (cut == std::string::npos || cut == 0) cut = rest.find(' ', room);
    if (cut == std::string::npos) break;
    fmt::print(out, "{}{}\n", line, rest.substr(0, cut));
    rest.erase(0, cut + 1);
    line.assign(hanging, ' ');
  }
  fmt::print(out, "{}{}\n", line, rest);
}

namespace {

/// Parts on one line as long as they fit.
class Lines {
 public:
  Lines(size_t indent, std::FILE* out) : indent_(indent), out_(out) {}
  void add(const std::string& part) {
    constexpr size_t kColumns = 100;
    if (!line_.empty() && indent_ + line_.size() + 2 + part.size() > kColumns) end();
    line_ += (line_.empty() ? "" : ", ") + part;
  }
  void end() {
    if (!line_.empty()) print_wrapped(std::string(indent_, ' '), line_, indent_ + 2, out_);
    line_.clear();
  }

 private:
  size_t indent_;
  std::FILE* out_;
  std::string line_;
};

}  // namespace

namespace {

/// `SO_REUSEADDR 1, SO_RCVBUF 131072`, of a list of SocketOption: those that are not zero.
std::string option_list_words(const json& options) {
  std::string text;
  for (const json& option : options) {
    const auto bytes = std::as_bytes(std::span(option.at("value").get_binary()));
    if (std::ranges::all_of(bytes, [](std::byte byte) { return byte == std::byte{0}; })) continue;
    const auto name = option.at("name").get<std::string>();
    text += (text.empty() ? "" : ", ") + plain(name) + " " + named_option_words(name, bytes);
  }
  return text;
}

}  // namespace

namespace {

/// What a member means depends on another one of the same object.
std::optional<std::string> words_by_neighbour(const json& object, std::string_view path,
                                              const std::string& name) {
  if (path.ends_with("socket") && name == "protocol" && object.contains("family"))
    return protocol_words(number_in(object.at("family")), number_in(object.at(name)));
  if (path.ends_with("options") && name == "value" && object.contains("name"))
    return named_option_words(object.at("name").get<std::string>(),
                              std::as_bytes(std::span(object.at(name).get_binary())));
  return std::nullopt;
}

}  // namespace

void print_fields(const json& value, const std::string& path, size_t indent, std::FILE* out) {
  Lines lines(indent, out);
  if (!value.is_object()) {
    if (!is_unset(value)) lines.add(field_text(path, value));
    return lines.end();
  }
  for (const auto& [name, member] : value.items()) {
    const bool plain_value = is_scalar(member) || is_plain_list(member);
    if (!plain_value || (is_unset(member) && !counts_from_zero(path + "." + name))) continue;
    const auto known = words_by_neighbour(value, path, name);
    lines.add(name + " " + (known ? *known : field_text(path + "." + name, member)));
  }
  lines.end();
  for (const auto& [name, member] : value.items()) {
    if (is_scalar(member) || is_plain_list(member) || is_unset(member)) continue;
    const std::string inner = path + "." + name;
    if (inner.ends_with(".socket.options")) {
      print_wrapped(fmt::format("{:{}}options ", "", indent), option_list_words(member), indent + 2,
                    out);
      continue;
    }
    if (member.is_object()) {
      fmt::print(out, "{:{}}{}\n", "", indent, name);
      print_fields(member, inner, indent + 2, out);
      continue;
    }
    for (size_t i = 0; i < member.size(); ++i) {
      if (is_unset(member[i])) continue;
      fmt::print(out, "{:{}}{} {}\n", "", indent, name, element_name(inner, i));
      print_fields(member[i], inner, indent + 2, out);
    }
  }
}

void add_words(json& value, const std::string& path) {
  if (value.is_array()) {
    for (json& element : value) add_words(element, path);
    return;
  }
  if (!value.is_object()) return;
  json words = json::object();
  for (auto& [name, member] : value.items()) {
    const std::string inner = path + "." + name;
    if (auto text = words_by_neighbour(value, path, name)) {
      words[name + "_words"] = *text;
    } else if (text = field_words(inner, member); text) {
      words[name + "_words"] = *text;
    } else if (is_plain_list(member) && !member.empty() && field_words(inner, member[0])) {
      json& list = words[name + "_words"] = json::array();
      for (const json& element : member) list.push_back(*field_words(inner, element));
    } else {
      add_words(member, inner);
    }
  }
  value.update(words);
}

}  // namespace rfork::tools
