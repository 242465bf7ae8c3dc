#include "image/json.h"

#include <limits>
#include <set>
#include <utility>

#include "base/text.h"
#include "image/json_fields.h"

namespace rfork::image {

namespace {

using nlohmann::json;

constexpr size_t kMaxDepth = 16;
constexpr size_t kMaxItems = 1u << 24;  ///< each takes 16 bytes and more of memory

// The words of each enumeration, by value.
constexpr std::array kObjectKinds{"shared_anonymous", "memfd",       "deleted_file", "file",
                                  "file_pages",       "sysv_segment"};
constexpr std::array kDescriptionKinds{
    "regular", "directory", "device",          "contents", "stdio",
    "relay",   "eventfd",   "signalfd",        "timerfd",  "epoll",
    "pipe",    "socket",    "inotify",         "fifo",     "kernel_file",
    "path",    "pidfd",     "pseudo_terminal", "fanotify"};
constexpr std::array kRelayTypes{"reader", "writer", "socket", "terminal"};
constexpr std::array kLockKinds{"posix", "description", "flock", "lease"};
constexpr std::array kMappingKinds{"anonymous", "file", "object", "vdso", "vvar"};
constexpr std::array kTargets{"memory", "object"};

constexpr const auto& words_of(Object::Kind) {
  return kObjectKinds;
}
constexpr const auto& words_of(Description::Kind) {
  return kDescriptionKinds;
}
constexpr const auto& words_of(Description::RelayType) {
  return kRelayTypes;
}
constexpr const auto& words_of(FileLock::Kind) {
  return kLockKinds;
}
constexpr const auto& words_of(Mapping::Kind) {
  return kMappingKinds;
}
constexpr const auto& words_of(DataRun::Target) {
  return kTargets;
}

const char* word_of(auto value) {
  const auto& words = words_of(value);
  const auto number = static_cast<size_t>(value);
  return number < words.size() ? words[number] : "unknown";
}

// --- Writing -------------------------------------------------------------------------------------

json encode(bool value) {
  return value;
}
json encode(std::integral auto value) {
  return value;
}
json encode(const std::string& value) {
  return value;
}
json encode(const Range& value) {
  return json::array({value.start, value.end});
}

json encode_bytes(std::span<const std::byte> bytes) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  return json::binary(std::vector<uint8_t>(data, data + bytes.size()));
}
json encode(const Bytes& value) {
  return encode_bytes(value);
}
json encode(const PendingSignal& value) {
  return encode_bytes(value);
}

template <typename T>
requires std::is_enum_v<T> json encode(T value) {
  return word_of(value);
}

template <typename T>
requires std::is_class_v<T> json encode(const T& value);
template <typename T>
json encode(const std::vector<T>& value);
template <typename T, size_t N>
json encode(const std::array<T, N>& value);

template <typename T>
json encode(const std::optional<T>& value) {
  return value ? encode(*value) : json(nullptr);
}

struct Writer {
  json& out;
  template <typename T>
  void operator()(const char* name, const T& value) {
    out[name] = encode(value);
  }
  void later(const char* name, const auto& value) { (*this)(name, value); }
};

template <typename T>
json encode_list(const T& list) {
  json out = json::array();
  for (const auto& element : list) out.push_back(encode(element));
  return out;
}

template <typename T>
json encode(const std::vector<T>& value) {
  return encode_list(value);
}
template <typename T, size_t N>
json encode(const std::array<T, N>& value) {
  return encode_list(value);
}

template <typename T>
requires std::is_class_v<T> json encode(const T& value) {
  json out = json::object();
  Writer writer{out};
  visit_fields(writer, value);
  return out;
}

// --- Reading -------------------------------------------------------------------------------------

[[noreturn]] void expected(const char* what) {
  throw FieldError("", std::string("is no ") + what);
}

void decode(const json& in, bool& value) {
  if (!in.is_boolean()) expected("boolean");
  value = in.get<bool>();
}

template <std::integral T>
void decode(const json& in, T& value) {
  if (!in.is_number_integer()) expected("integer");
  if (in.is_number_unsigned()) {
    const auto number = in.get<uint64_t>();
    if (!std::in_range<T>(number)) throw FieldError("", "is out of range");
    value = static_cast<T>(number);
  } else {
    const auto number = in.get<int64_t>();
    if (!std::in_range<T>(number)) throw FieldError("", "is out of range");
    value = static_cast<T>(number);
  }
}

void decode(const json& in, std::string& value) {
  if (!in.is_string()) expected("string");
  value = in.get_ref<const std::string&>();
}

void decode(const json& in, Range& value) {
  if (!in.is_array() || in.size() != 2) expected("pair [start, end]");
  decode(in[0], value.start);
  decode(in[1], value.end);
  if (value.start > value.end) throw FieldError("", "ends before it starts");
}

void decode(const json& in, Bytes& value) {
  if (!in.is_binary()) expected("byte string");
  const auto bytes = std::as_bytes(std::span(in.get_binary()));
  value.assign(bytes.begin(), bytes.end());
}

void decode(const json& in, PendingSignal& value) {
  if (!in.is_binary() || in.get_binary().size() != value.size()) expected("siginfo of 128 bytes");
  const auto bytes = std::as_bytes(std::span(in.get_binary()));
  std::copy(bytes.begin(), bytes.end(), value.begin());
}

template <typename T>
requires std::is_enum_v<T>
void decode(const json& in, T& value) {
  if (!in.is_string()) expected("word");
  const auto& words = words_of(T{});
  for (size_t i = 0; i < words.size(); ++i) {
    if (in.get_ref<const std::string&>() == words[i]) {
      value = static_cast<T>(i);
      return;
    }
  }
  throw FieldError("", "has the unknown value '" + in.get<std::string>() + "'", true);
}

template <typename T>
requires std::is_class_v<T>
void decode(const json& in, T& value);
template <typename T>
void decode(const json& in, std::vector<T>& value);
template <typename T, size_t N>
void decode(const json& in, std::array<T, N>& value);

template <typename T>
void decode(const json& in, std::optional<T>& value) {
  value.reset();
  if (!in.is_null()) decode(in, value.emplace());
}

/// decode(), with errors saying where: "field.inner: why".
template <typename T>
void decode_field(const json& in, const std::string& name, T& value) {
  try {
    decode(in, value);
  } catch (const FieldError& error) {
    throw error.within(name);
  }
}

template <typename T>
void decode(const json& in, std::vector<T>& value) {
  if (!in.is_array()) expected("list");
  value.clear();
  value.reserve(in.size());
  for (size_t i = 0; i < in.size(); ++i) {
    decode_field(in[i], std::to_string(i), value.emplace_back());
  }
}

template <typename T, size_t N>
void decode(const json& in, std::array<T, N>& value) {
  if (!in.is_array() || in.size() != N) throw FieldError("", "is no list of the right length");
  for (size_t i = 0; i < N; ++i) decode_field(in[i], std::to_string(i), value[i]);
}

struct Reader {
  const json& in;
  size_t known = 0;
  template <typename T>
  void operator()(const char* name, T& value) {
    const auto found = in.find(name);
    if (found == in.end()) throw FieldError(name, "is missing");
    ++known;
    decode_field(*found, name, value);
  }
  void later(const char* name, auto& value) {
    if (in.contains(name)) (*this)(name, value);
  }
};

/// Takes the names of a struct's fields out of `left`.
struct NameRemover {
  std::set<std::string>& left;
  void operator()(const char* name, const auto& /*value*/) { left.erase(name); }
  void later(const char* name, const auto& /*value*/) { left.erase(name); }
};

/// Reads the fields that `visit` visits, and throws when there are others.
void read_fields(const json& in, auto&& visit) {
  if (!in.is_object()) expected("object");
  Reader reader{in};
  visit(reader);
  if (reader.known == in.size()) return;
  std::set<std::string> left;
  for (const auto& member : in.items()) left.insert(member.key());
  NameRemover remover{left};
  visit(remover);
  throw FieldError(*left.begin(), "is unknown here", true);
}

template <typename T>
requires std::is_class_v<T>
void decode(const json& in, T& value) {
  read_fields(in, [&](auto& visitor) { visit_fields(visitor, value); });
}

/// One CBOR item's head at `position`, which moves behind it.
struct CborHead {
  unsigned major = 0;
  unsigned minor = 0;
  uint64_t argument = 0;
};

CborHead take_head(std::span<const std::byte> bytes, size_t& position) {
  if (position >= bytes.size()) throw FieldError("CBOR", "ends in the middle");
  const auto first = std::to_integer<unsigned>(bytes[position++]);
  CborHead head{first >> 5, first & 31, first & 31};
  if (head.minor < 24) return head;
  if (head.minor > 27) throw FieldError("CBOR", "has an item of no fixed length");
  const size_t length = size_t{1} << (head.minor - 24);
  if (bytes.size() - position < length) throw FieldError("CBOR", "ends in the middle");
  head.argument = 0;
  for (size_t i = 0; i < length; ++i) {
    head.argument = head.argument << 8 | std::to_integer<uint64_t>(bytes[position++]);
  }
  return head;
}

/// Walks CBOR without recursion and takes only what to_cbor() writes: items of definite length, no
/// tags. nlohmann's reader calls itself for each level of nesting and for each chunk of an
/// indefinite string.
void check_cbor(std::span<const std::byte> bytes) {
  std::array<uint64_t, kMaxDepth + 1> left{1};  // items still to come at each level
  size_t depth = 0;
  size_t position = 0;
  for (size_t items = 0;; ++items) {
    while (left[depth] == 0) {
      if (depth == 0) return;
      --depth;
    }
    if (items == kMaxItems) throw FieldError("CBOR", "has too many items");
    --left[depth];
    const CborHead head = take_head(bytes, position);
    const uint64_t remaining = bytes.size() - position;
    const bool list = head.major == 4 || head.major == 5;
    if (head.major == 6) throw FieldError("CBOR", "has a tag");
    if (head.major >= 2 && head.major <= 5 && head.argument > remaining) {
      throw FieldError("CBOR", "has an item that is longer than the input");
    }
    if (head.major == 2 || head.major == 3) position += head.argument;
    if (list && depth == kMaxDepth) throw FieldError("CBOR", "nests too deep");
    if (list) left[++depth] = head.major == 5 ? head.argument * 2 : head.argument;
  }
}

}  // namespace

const char* name_of(Object::Kind kind) {
  return word_of(kind);
}
const char* name_of(Description::Kind kind) {
  return word_of(kind);
}
const char* name_of(Description::RelayType type) {
  return word_of(type);
}
const char* name_of(FileLock::Kind kind) {
  return word_of(kind);
}
const char* name_of(Mapping::Kind kind) {
  return word_of(kind);
}
const char* name_of(DataRun::Target target) {
  return word_of(target);
}

void to_json(json& out, const XstateComponent& value) {
  out = encode(value);
}
void to_json(json& out, const Host& value) {
  out = encode(value);
}
void to_json(json& out, const Needs& value) {
  out = encode(value);
}
void to_json(json& out, const File& value) {
  out = encode(value);
}
void to_json(json& out, const SysvSegment& value) {
  out = encode(value);
}
void to_json(json& out, const Object& value) {
  out = encode(value);
}
void to_json(json& out, const Description& value) {
  out = encode(value);
}
void to_json(json& out, const Descriptor& value) {
  out = encode(value);
}
void to_json(json& out, const Mapping& value) {
  out = encode(value);
}
void to_json(json& out, const Thread& value) {
  out = encode(value);
}
void to_json(json& out, const Process& value) {
  out = encode(value);
}
void to_json(json& out, const Snapshot& value) {
  out = encode(value);
}
void to_json(json& out, const DataRun& value) {
  out = encode(value);
}

void from_json(const json& in, XstateComponent& value) {
  decode(in, value);
}
void from_json(const json& in, Host& value) {
  decode(in, value);
}
void from_json(const json& in, Needs& value) {
  decode(in, value);
}
void from_json(const json& in, File& value) {
  decode(in, value);
}
void from_json(const json& in, SysvSegment& value) {
  decode(in, value);
}
void from_json(const json& in, Object& value) {
  decode(in, value);
}
void from_json(const json& in, Description& value) {
  decode(in, value);
}
void from_json(const json& in, Descriptor& value) {
  decode(in, value);
}
void from_json(const json& in, Mapping& value) {
  decode(in, value);
}
void from_json(const json& in, Thread& value) {
  decode(in, value);
}
void from_json(const json& in, Process& value) {
  decode(in, value);
}
void from_json(const json& in, Snapshot& value) {
  decode(in, value);
}
void from_json(const json& in, DataRun& value) {
  decode(in, value);
}

json process_head_to_json(const Process& process) {
  json out = json::object();
  Writer writer{out};
  visit_head(writer, process);
  return out;
}

void process_head_from_json(const json& in, Process& process) {
  read_fields(in, [&](auto& visitor) { visit_head(visitor, process); });
}

json snapshot_head_to_json(const Snapshot& snapshot) {
  json out = json::object();
  Writer writer{out};
  visit_head(writer, snapshot);
  return out;
}

void snapshot_head_from_json(const json& in, Snapshot& snapshot) {
  read_fields(in, [&](auto& visitor) { visit_head(visitor, snapshot); });
}

json parse_cbor(std::span<const std::byte> bytes) {
  check_cbor(bytes);
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  try {
    return json::from_cbor(data, data + bytes.size());
  } catch (const json::exception& error) {
    throw FieldError("CBOR", error.what());
  }
}

json printable(json value) {
  if (value.is_binary()) return to_hex(std::as_bytes(std::span(value.get_binary())));
  if (value.is_structured()) {
    for (auto& element : value) element = printable(std::move(element));
  }
  return value;
}

}  // namespace rfork::image
