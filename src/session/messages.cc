#include "session/messages.h"

#include <fmt/format.h>
#include <sys/random.h>

#include <concepts>
#include <limits>
#include <nlohmann/json.hpp>
#include <type_traits>

#include "base/text.h"
#include "image/json.h"
#include "session/message_fields.h"

namespace rfork::session {

namespace {

using image::FieldError;
using nlohmann::json;

constexpr size_t kMaxElements =
    300'000;  ///< of a body, so that a small one can't become a large tree

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
