// The structs of model.h as JSON values, the same for the notes of an image (as CBOR), for the
// messages of a connection and for `rfork-dump --json`.
//
// A struct is an object with a member for each field, named as the field. Enumerations are words,
// bytes are CBOR byte strings, a range is [start, end], an unset optional is null. Strings are the
// kernel's bytes: mostly, but not necessarily, UTF-8.
//
// from_json() believes nothing: a member that is missing, has another type or doesn't fit its field
// throws FieldError. So does one that it doesn't know: what a later rfork carries in it would be
// lost silently.
#pragma once

#include <nlohmann/json.hpp>
#include <span>
#include <stdexcept>
#include <string>

#include "image/host.h"
#include "image/model.h"

namespace rfork::image {

/// A JSON value that is not the struct that was asked for; what() reads `FIELD.FIELD: why`.
class FieldError : public std::runtime_error {
 public:
  FieldError(std::string field, std::string why, bool later = false)
      : std::runtime_error(field + ": " + why),
        field_(std::move(field)),
        why_(std::move(why)),
        later_(later) {}
  /// The same, of a field within `outer`.
  FieldError within(const std::string& outer) const {
    return {field_.empty() ? outer : outer + "." + field_, why_, later_};
  }
  const std::string& field() const { return field_; }
  const std::string& why() const { return why_; }
  /// Whether it may be right, and of a later rfork.
  bool later() const { return later_; }

 private:
  std::string field_;
  std::string why_;
  bool later_;
};

void to_json(nlohmann::json& json, const XstateComponent& value);
void to_json(nlohmann::json& json, const Host& value);
void to_json(nlohmann::json& json, const Needs& value);
void to_json(nlohmann::json& json, const File& value);
void to_json(nlohmann::json& json, const Object& value);
void to_json(nlohmann::json& json, const SysvSegment& value);
void to_json(nlohmann::json& json, const Description& value);
void to_json(nlohmann::json& json, const Descriptor& value);
void to_json(nlohmann::json& json, const Mapping& value);
void to_json(nlohmann::json& json, const Thread& value);
void to_json(nlohmann::json& json, const Process& value);
void to_json(nlohmann::json& json, const Snapshot& value);
void to_json(nlohmann::json& json, const DataRun& value);

void from_json(const nlohmann::json& json, XstateComponent& value);
void from_json(const nlohmann::json& json, Host& value);
void from_json(const nlohmann::json& json, Needs& value);
void from_json(const nlohmann::json& json, File& value);
void from_json(const nlohmann::json& json, Object& value);
void from_json(const nlohmann::json& json, SysvSegment& value);
void from_json(const nlohmann::json& json, Description& value);
void from_json(const nlohmann::json& json, Descriptor& value);
void from_json(const nlohmann::json& json, Mapping& value);
void from_json(const nlohmann::json& json, Thread& value);
void from_json(const nlohmann::json& json, Process& value);
void from_json(const nlohmann::json& json, Snapshot& value);
void from_json(const nlohmann::json& json, DataRun& value);

// A process or a snapshot may have tens of thousands of mappings, and a JSON value takes some
// kilobytes for each. Who can't spare that takes it in parts: these leave the long lists out
// (threads, mappings and descriptors of a process; files, objects, descriptions and processes of a
// snapshot, and its host).

nlohmann::json process_head_to_json(const Process& process);
void process_head_from_json(const nlohmann::json& json, Process& process);
nlohmann::json snapshot_head_to_json(const Snapshot& snapshot);
void snapshot_head_from_json(const nlohmann::json& json, Snapshot& snapshot);

/// The words of the enumerations, as the JSON has them.
const char* name_of(Object::Kind kind);
const char* name_of(Description::Kind kind);
const char* name_of(Description::RelayType type);
const char* name_of(FileLock::Kind kind);
const char* name_of(Mapping::Kind kind);
const char* name_of(DataRun::Target target);

/// Parses CBOR that a stranger wrote: nesting deeper than 16 throws FieldError before it can
/// exhaust the stack, as does anything that is no CBOR.
nlohmann::json parse_cbor(std::span<const std::byte> bytes);

/// `value` with byte strings as hexadecimal text, which JSON text can hold.
nlohmann::json printable(nlohmann::json value);

}  // namespace rfork::image
