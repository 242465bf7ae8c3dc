// One list of members for each message; encoding and decoding both walk it, so that a member can't
// be written and not read.

#include "session/messages.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "base/text.h"
#include "image/json.h"

namespace rfork::session {

namespace {

using image::FieldError;
using nlohmann::json;

constexpr size_t kMaxElements =
    300'000;  ///< of a body, so that a small one can't become a large tree

template <typename T, typename Struct>
concept Is = std::same_as<std::remove_const_t<T>, Struct>;

// An enumeration travels as a number up to this one.
constexpr unsigned last_value(loader::PidMode) {
  return static_cast<unsigned>(loader::PidMode::automatic);
}
constexpr unsigned last_value(ChildState) {
  return static_cast<unsigned>(ChildState::ended);
}
constexpr unsigned last_value(EventKind) {
  return static_cast<unsigned>(EventKind::lost);
}
constexpr unsigned last_value(Resolution::State) {
  return static_cast<unsigned>(Resolution::State::unknown);
}

void visit_members(auto& visit, Is<Reason> auto& x) {
  visit("what", x.what);
  visit("advice", x.advice);
}

void visit_members(auto& visit, Is<NamedSocket> auto& x) {
  visit("fd", x.fd);
  visit("family", x.family);
  visit("type", x.type);
  visit("protocol", x.protocol);
  visit("name", x.name);
  visit("peer", x.peer);
  visit("interface", x.interface);
  visit("has_path", x.has_path);
  visit("listening", x.listening);
  visit("cookie", x.cookie);
  visit("options", x.options);
  visit("values", x.values);
}

void visit_members(auto& visit, Is<OfferMessage> auto& x) {
  visit("move_id", x.move_id);
  visit("move", x.offer.move);
  visit("pid_mode", x.offer.pid_mode);
  visit("ignore_cpu", x.offer.ignore_cpu);
  visit("overwrite_files", x.offer.overwrite_files);
  visit("changed_files", x.offer.changed_files);
  visit("spooled", x.offer.spooled);
  visit("attended", x.offer.attended);
  visit("linger_s", x.offer.linger_s);
  visit("needs", x.offer.needs);
  visit("pid", x.offer.pid);
  visit("tids", x.offer.tids);
  visit("name", x.offer.name);
  visit("uid", x.offer.uid);
  visit("user", x.offer.user);
  visit("resident_bytes", x.offer.resident_bytes);
  visit("mapped_files", x.offer.mapped_files);
  visit("open_files", x.offer.open_files);
  visit("leases", x.offer.leases);
  visit("any_address", x.offer.any_address);
  visit("sockets", x.offer.sockets);
  visit("segments", x.offer.segments);
}

void visit_members(auto& visit, Is<Answer> auto& x) {
  visit("present_paths", x.present_paths);
  visit("warnings", x.warnings);
}

void visit_members(auto& visit, Is<Judgement> auto& x) {
  visit("reasons", x.reasons);
  visit("warnings", x.warnings);
  visit("present_paths", x.present_paths);
  visit("goes_on", x.goes_on);
  visit("pid_kept", x.pid_kept);
  visit("pid_namespace", x.pid_namespace);
}

void visit_members(auto& visit, Is<SignalMessage> auto& x) {
  visit("signal", x.signal);
}

void visit_members(auto& visit, Is<ChildStateMessage> auto& x) {
  visit("wait_status", x.wait_status);
}

void visit_members(auto& visit, Is<ChangeReport> auto& x) {
  visit("id", x.id);
  visit("wait_status", x.wait_status);
}

void visit_members(auto& visit, Is<SignalReport> auto& x) {
  visit("id", x.id);
  visit("signal", x.signal);
}

void visit_members(auto& visit, Is<LostReport> auto& x) {
  visit("id", x.id);
  visit("reason", x.reason);
}

void visit_members(auto& visit, Is<ResourceUse> auto& x) {
  visit("known", x.known);
  visit("cpu_ns", x.cpu_ns);
  visit("resident_bytes", x.resident_bytes);
  visit("max_resident_bytes", x.max_resident_bytes);
  visit("threads", x.threads);
}

void visit_members(auto& visit, Is<UseReport> auto& x) {
  visit("id", x.id);
  visit("use", x.use);
}

void visit_members(auto& visit, Is<EndMessage> auto& x) {
  visit("image_bytes", x.image_bytes);
}

void visit_members(auto& visit, Is<Ready> auto& x) {
  visit("pid", x.pid);
  visit("warnings", x.warnings);
}

void visit_members(auto& visit, Is<Running> auto& x) {
  visit("child_id", x.child_id);
  visit("pid", x.pid);
}

void visit_members(auto& visit, Is<AbortMessage> auto& x) {
  visit("why", x.why);
}

void visit_members(auto& visit, Is<RefusedMessage> auto& x) {
  visit("reasons", x.reasons);
}

void visit_members(auto& visit, Is<MoveQuestion> auto& x) {
  visit("move_id", x.move_id);
}

void visit_members(auto& visit, Is<Resolution> auto& x) {
  visit("state", x.state);
  visit("child_id", x.child_id);
  visit("pid", x.pid);
  visit("description", x.description);
}

void visit_members(auto& visit, Is<ChildQuestion> auto& x) {
  visit("id", x.id);
}

void visit_members(auto& visit, Is<LogsQuestion> auto& x) {
  visit("id", x.id);
  visit("follow", x.follow);
  visit("offset", x.offset);
}

void visit_members(auto& visit, Is<EventsQuestion> auto& x) {
  visit("id", x.id);
  visit("follow", x.follow);
}

void visit_members(auto& visit, Is<EventsAfter> auto& x) {
  visit("after", x.after);
  visit("id", x.id);
  visit("wait", x.wait);
}

void visit_members(auto& visit, Is<Event> auto& x) {
  visit("sequence", x.sequence);
  visit("time_ns", x.time_ns);
  visit("kind", x.kind);
  visit("child_id", x.child_id);
  visit("move_id", x.move_id);
  visit("name", x.name);
  visit("pid", x.pid);
  visit("origin", x.origin);
  visit("origin_pid", x.origin_pid);
  visit("signal", x.signal);
  visit("signalled", x.end.signalled);
  visit("code", x.end.code);
  visit("core_dumped", x.end.core_dumped);
  visit("reason", x.reason);
}

void visit_members(auto& visit, Is<HostEvent> auto& x) {
  visit("host", x.host);
  visit("event", x.event);
}

void visit_members(auto& visit, Is<MissedMessage> auto& x) {
  visit("host", x.host);
  visit("count", x.count);
}

void visit_members(auto& visit, Is<EventsPart> auto& x) {
  visit("host", x.host);
  visit("missed", x.missed);
  visit("last", x.last);
  visit("more", x.more);
  visit("events", x.events);
}

void visit_members(auto& visit, Is<KillOrder> auto& x) {
  visit("id", x.id);
  visit("signal", x.signal);
}

void visit_members(auto& visit, Is<ChildInfo> auto& x) {
  visit("id", x.id);
  visit("move_id", x.move_id);
  visit("state", x.state);
  visit("stopped", x.stopped);
  visit("pid", x.pid);
  visit("inner_pid", x.inner_pid);
  visit("name", x.name);
  visit("user", x.user);
  visit("origin", x.origin);
  visit("origin_pid", x.origin_pid);
  visit("moved", x.moved);
  visit("since_ns", x.since_ns);
  visit("ended_ns", x.ended_ns);
  visit("signalled", x.end.signalled);
  visit("code", x.end.code);
  visit("core_dumped", x.end.core_dumped);
  visit("use", x.use);
}

void visit_members(auto& visit, Is<Announcement> auto& x) {
  visit("child", x.child);
}

void visit_members(auto& visit, Is<Standing> auto& x) {
  visit("pid", x.pid);
  visit("wait_pid", x.wait_pid);
  visit("inner_pid", x.inner_pid);
}

void visit_members(auto& visit, Is<ListQuestion> auto& x) {
  visit("after", x.after);
}

void visit_members(auto& visit, Is<ListPart> auto& x) {
  visit("children", x.children);
  visit("more", x.more);
}

struct NoVisitor {
  template <typename T>
  void operator()(const char*, T&) {}
};
template <typename T>
concept Record = requires(T& value, NoVisitor& visitor) {
  visit_members(visitor, value);
};

template <typename T>
concept OfImage = Is<T, image::Needs> || Is<T, image::File> || Is<T, image::SysvSegment>;

template <typename T>
json to_value(const T& value) {
  if constexpr (Record<T>) {
    json object = json::object();
    auto visit = [&](const char* name, const auto& member) { object[name] = to_value(member); };
    visit_members(visit, value);
    return object;
  } else if constexpr (OfImage<T>) {
    return json(value);
  } else if constexpr (std::is_enum_v<T>) {
    return static_cast<unsigned>(value);
  } else if constexpr (std::is_arithmetic_v<T> || std::same_as<T, std::string>) {
    return value;
  } else {  // a list or a set
    json array = json::array();
    for (const auto& element : value) array.push_back(to_value(element));
    return array;
  }
}

/// Reads one value, or throws FieldError.
struct Reader {
  template <typename T>
  void operator()(const json& from, const std::string& name, T& value) {
    if constexpr (Record<T>) {
      record(from, name, value);
    } else if constexpr (OfImage<T>) {
      from.get_to(value);
    } else if constexpr (std::same_as<T, bool>) {
      if (!from.is_boolean()) throw FieldError(name, "no boolean");
      value = from.get<bool>();
    } else if constexpr (std::same_as<T, std::string>) {
      if (!from.is_string()) throw FieldError(name, "no string");
      value = from.get_ref<const std::string&>();
    } else if constexpr (std::is_enum_v<T>) {
      unsigned number = 0;
      (*this)(from, name, number);
      if (number > last_value(T{})) throw FieldError(name, "no value of its kind");
      value = static_cast<T>(number);
    } else if constexpr (std::is_integral_v<T>) {
      integer(from, name, value);
    } else {
      if (!from.is_array()) throw FieldError(name, "no array");
      for (const json& element : from) {
        typename T::value_type one{};
        (*this)(element, name, one);
        value.insert(value.end(), std::move(one));
      }
    }
  }

  template <std::integral T>
  void integer(const json& from, const std::string& name, T& value) {
    if (!from.is_number_integer()) throw FieldError(name, "no integer");
    const bool fits = from.is_number_unsigned() ? std::in_range<T>(from.get<uint64_t>())
                                                : std::in_range<T>(from.get<int64_t>());
    if (!fits) throw FieldError(name, "out of range");
    value = from.is_number_unsigned() ? static_cast<T>(from.get<uint64_t>())
                                      : static_cast<T>(from.get<int64_t>());
  }

  template <Record T>
  void record(const json& from, const std::string& name, T& value) {
    if (!from.is_object()) throw FieldError(name, "no map");
    size_t members = 0;
    auto visit = [&](const char* member, auto& field) {
      const auto found = from.find(member);
      if (found == from.end()) throw FieldError(member, "missing");
      (*this)(*found, member, field);
      ++members;
    };
    visit_members(visit, value);
    if (members != from.size()) throw FieldError(name, "a member that is not known");
  }
};

/// Counts what a body would become, before it becomes it.
class ElementCounter : public nlohmann::json_sax<json> {
 public:
  bool null() override { return one(); }
  bool boolean(bool) override { return one(); }
  bool number_integer(number_integer_t) override { return one(); }
  bool number_unsigned(number_unsigned_t) override { return one(); }
  bool number_float(number_float_t, const string_t&) override { return one(); }
  bool string(string_t&) override { return one(); }
  bool binary(binary_t&) override { return one(); }
  bool start_object(std::size_t) override { return deeper(); }
  bool key(string_t&) override { return one(); }
  bool end_object() override { return shallower(); }
  bool start_array(std::size_t) override { return deeper(); }
  bool end_array() override { return shallower(); }
  bool parse_error(std::size_t at, const std::string&, const json::exception&) override {
    error_at = at;
    return false;
  }

  std::optional<size_t> error_at;

 private:
  static constexpr int kMaxDepth = 8;
  bool one() { return ++count_ <= kMaxElements; }
  bool deeper() { return ++depth_ <= kMaxDepth && one(); }
  bool shallower() {
    --depth_;
    return true;
  }
  size_t count_ = 0;
  int depth_ = 0;
};

json parse(std::span<const std::byte> body) {
  const auto* data = reinterpret_cast<const uint8_t*>(body.data());
  ElementCounter counter;
  if (!json::sax_parse(data, data + body.size(), &counter, json::input_format_t::cbor)) {
    if (counter.error_at) {
      throw FieldError(fmt::format("byte {}", *counter.error_at), "no CBOR");
    }
    throw FieldError("body", "too deep or too many elements");
  }
  return json::from_cbor(data, data + body.size());
}

template <typename Message>
constexpr std::string_view kName = "a message";
template <>
constexpr std::string_view kName<OfferMessage> = "OFFER";
template <>
constexpr std::string_view kName<Answer> = "ANSWER";
template <>
constexpr std::string_view kName<Judgement> = "JUDGEMENT";
template <>
constexpr std::string_view kName<EndMessage> = "END";
template <>
constexpr std::string_view kName<Ready> = "READY";
template <>
constexpr std::string_view kName<Running> = "RUNNING";
template <>
constexpr std::string_view kName<AbortMessage> = "ABORT";
template <>
constexpr std::string_view kName<RefusedMessage> = "REFUSED";
template <>
constexpr std::string_view kName<MoveQuestion> = "RESOLVE";
template <>
constexpr std::string_view kName<Resolution> = "RESOLUTION";
template <>
constexpr std::string_view kName<ChildInfo> = "CHILD";
template <>
constexpr std::string_view kName<LogsQuestion> = "LOGS";
template <>
constexpr std::string_view kName<EventsQuestion> = "EVENTS";
template <>
constexpr std::string_view kName<HostEvent> = "EVENT";
template <>
constexpr std::string_view kName<MissedMessage> = "MISSED";
template <>
constexpr std::string_view kName<KillOrder> = "KILL";

}  // namespace

template <typename Message>
Message decode(std::span<const std::byte> body) {
  const auto refuse = [](std::string_view why) -> Refusal {
    return {Failure::connection_lost, fmt::format("{} is malformed: {}", kName<Message>, why)};
  };
  try {
    Message message;
    Reader read;
    read(parse(body), "body", message);
    return message;
  } catch (const FieldError& error) {
    throw refuse(error.what());
  } catch (const json::exception& error) {
    throw refuse(error.what());
  }
}

template <typename Message>
Bytes encode(const Message& message) {
  const std::vector<uint8_t> cbor = json::to_cbor(to_value(message));
  const auto bytes = std::as_bytes(std::span(cbor));
  return {bytes.begin(), bytes.end()};
}

#define RFORK_MESSAGE(Type)                               \
  template Type decode<Type>(std::span<const std::byte>); \
  template Bytes encode<Type>(const Type&);

RFORK_MESSAGE(OfferMessage)
RFORK_MESSAGE(Answer)
RFORK_MESSAGE(Judgement)
RFORK_MESSAGE(EndMessage)
RFORK_MESSAGE(Ready)
RFORK_MESSAGE(Running)
RFORK_MESSAGE(AbortMessage)
RFORK_MESSAGE(RefusedMessage)
RFORK_MESSAGE(MoveQuestion)
RFORK_MESSAGE(Resolution)
RFORK_MESSAGE(ChildQuestion)
RFORK_MESSAGE(LogsQuestion)
RFORK_MESSAGE(KillOrder)
RFORK_MESSAGE(ChildInfo)
RFORK_MESSAGE(Announcement)
RFORK_MESSAGE(Standing)
RFORK_MESSAGE(SignalMessage)
RFORK_MESSAGE(ChildStateMessage)
RFORK_MESSAGE(ChangeReport)
RFORK_MESSAGE(SignalReport)
RFORK_MESSAGE(LostReport)
RFORK_MESSAGE(UseReport)
RFORK_MESSAGE(EventsQuestion)
RFORK_MESSAGE(HostEvent)
RFORK_MESSAGE(MissedMessage)
RFORK_MESSAGE(EventsAfter)
RFORK_MESSAGE(EventsPart)
RFORK_MESSAGE(ListQuestion)
RFORK_MESSAGE(ListPart)

bool is_move_id(std::string_view text) {
  return text.size() == 32 && text.find_first_not_of("0123456789abcdef") == std::string_view::npos;
}

std::string make_move_id() {
  std::array<std::byte, 16> bytes{};
  if (getrandom(bytes.data(), bytes.size(), 0) != static_cast<ssize_t>(bytes.size())) {
    throw_errno("getrandom");
  }
  return to_hex(bytes);
}

}  // namespace rfork::session
