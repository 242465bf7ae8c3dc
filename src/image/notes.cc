#include "image/notes.h"

#include <fmt/format.h>

#include <algorithm>
#include <cstring>

#include "base/error.h"
#include "base/text.h"
#include "image/format.h"
#include "image/json.h"

namespace rfork::image {

namespace {

using nlohmann::json;

// What the standard notes of the first process carry already. Other processes have it in their
// threads notes.
constexpr std::array kRegisterColumns{"registers", "floating_point", "xstate"};

// Both ends hold a note as a whole, so a table ends with the row that makes it so large.
constexpr size_t kLargeTable = 4u << 20;
// What one row may come to: a description with all that is queued in it (tracer/large_queues.cc).
constexpr size_t kMaxNote = 512u << 20;

/// Bytes of the byte strings in `value`.
size_t bulk_of(const json& value) {
  if (value.is_binary()) return value.get_binary().size();
  size_t bulk = 0;
  if (value.is_structured()) {
    for (const json& element : value) bulk += bulk_of(element);
  }
  return bulk;
}

/// Splits `list` into tables and hands each to `write`; an empty list makes no table.
template <typename T, typename Write>
void write_tables(const std::vector<T>& list, bool without_registers, Write&& write) {
  for (size_t next = 0; next < list.size();) {
    json table = {{"columns", json::array()}, {"rows", json::array()}};
    const size_t end = std::min(list.size(), next + kRowsPerNote);
    for (size_t bulk = 0; next < end && bulk < kLargeTable; ++next) {
      json row = json::array();
      json element = list[next];
      for (const char* name : kRegisterColumns) {
        if (without_registers) element.erase(name);
      }
      bulk += bulk_of(element);
      const bool first = table["columns"].empty();
      for (auto& [name, value] : element.items()) {
        if (first) table["columns"].push_back(name);
        row.push_back(std::move(value));
      }
      table["rows"].push_back(std::move(row));
    }
    write(table);
  }
}

/// Appends the rows of a table to `list`. `complete` may add members to a row before it is read.
template <typename T, typename Complete>
void read_table(const json& table, std::vector<T>& list, Complete&& complete) {
  if (!table.is_object() || !table.contains("columns") || !table.contains("rows")) {
    throw FieldError("table", "has no columns and rows");
  }
  const json& columns = table["columns"];
  const json& rows = table["rows"];
  if (!columns.is_array() || !rows.is_array()) throw FieldError("table", "has no lists");
  if (rows.size() > kRowsPerNote) throw FieldError("table", "has too many rows");
  for (const json& row : rows) {
    if (!row.is_array() || row.size() != columns.size()) {
      throw FieldError("table", "has a row of another length");
    }
    json element = json::object();
    for (size_t i = 0; i < row.size(); ++i) {
      if (!columns[i].is_string()) throw FieldError("table", "has a column without a name");
      element[columns[i].get_ref<const std::string&>()] = row[i];
    }
    complete(element);
    list.push_back(element.get<T>());
  }
}

template <typename T>
void read_table(const json& table, std::vector<T>& list) {
  read_table(table, list, [](json&) {});
}

json binary(std::span<const std::byte> bytes) {
  const auto* data = reinterpret_cast<const uint8_t*>(bytes.data());
  return json::binary(std::vector<uint8_t>(data, data + bytes.size()));
}

constexpr const char* kTakeALaterOne = "use the rfork that wrote it, or a later one";

}  // namespace

const char* name_of(NoteType type) {
  switch (type) {
    case NoteType::host:
      return "host";
    case NoteType::snapshot:
      return "snapshot";
    case NoteType::files:
      return "files";
    case NoteType::objects:
      return "objects";
    case NoteType::descriptions:
      return "descriptions";
    case NoteType::process:
      return "process";
    case NoteType::threads:
      return "threads";
    case NoteType::mappings:
      return "mappings";
    case NoteType::descriptors:
      return "descriptors";
  }
  return nullptr;
}

void NoteWriter::append(std::span<const std::byte> bytes) {
  out_.insert(out_.end(), bytes.begin(), bytes.end());
}

void NoteWriter::pad() {
  out_.resize((out_.size() + 3) & ~size_t{3});
}

void NoteWriter::begin(std::string_view owner, uint32_t type, size_t descriptor_size) {
  if (descriptor_size > kMaxMetadata) {
    throw Refusal(Failure::cannot_carry, "a note of the image would be larger than 1 GiB");
  }
  const Elf64_Nhdr header{static_cast<uint32_t>(owner.size() + 1),
                          static_cast<uint32_t>(descriptor_size), type};
  append(std::as_bytes(std::span(&header, 1)));
  append(as_bytes(owner));
  out_.push_back(std::byte{0});
  pad();
}

void NoteWriter::add(std::string_view owner, uint32_t type, std::span<const std::byte> descriptor) {
  begin(owner, type, descriptor.size());
  append(descriptor);
  pad();
}

void NoteWriter::add(NoteType type, uint32_t process, std::span<const std::byte> cbor) {
  if (cbor.size() > kMaxNote) {
    throw Refusal(Failure::cannot_carry,
                  fmt::format("the process's {} make a note larger than {} MiB", name_of(type),
                              kMaxNote >> 20));
  }
  const NoteHead head{kNoteVersion, kMustUnderstand, process};
  begin(kOwner, static_cast<uint32_t>(type), sizeof head + cbor.size());
  append(std::as_bytes(std::span(&head, 1)));
  append(cbor);
  pad();
}

void write_notes(const Snapshot& snapshot, Bytes& out) {
  NoteWriter writer(out);
  write_core_notes(snapshot, writer);
  const auto add = [&](NoteType type, uint32_t process, const json& value) {
    const std::vector<uint8_t> cbor = json::to_cbor(value);
    writer.add(type, process, std::as_bytes(std::span(cbor)));
  };
  const auto add_list = [&](NoteType type, uint32_t process, const auto& list,
                            bool without = false) {
    write_tables(list, without, [&](const json& table) { add(type, process, table); });
  };
  add(NoteType::host, 0, snapshot.host);
  add(NoteType::snapshot, 0, snapshot_head_to_json(snapshot));
  add_list(NoteType::files, 0, snapshot.files);
  add_list(NoteType::objects, 0, snapshot.objects);
  add_list(NoteType::descriptions, 0, snapshot.descriptions);
  for (uint32_t i = 0; i < snapshot.processes.size(); ++i) {
    const Process& process = snapshot.processes[i];
    add(NoteType::process, i, process_head_to_json(process));
    add_list(NoteType::threads, i, process.threads, i == 0);
    add_list(NoteType::mappings, i, process.mappings);
    add_list(NoteType::descriptors, i, process.descriptors);
  }
}

void NoteReader::take(std::string_view owner, uint32_t type, std::span<const std::byte> descriptor,
                      uint64_t offset) {
  if (owner == "CORE" || owner == "LINUX") return take_core(type, descriptor);
  if (owner != kOwner) return;
  NoteHead head;
  if (descriptor.size() < sizeof head) throw FieldError("note", "is shorter than its head");
  std::memcpy(&head, descriptor.data(), sizeof head);
  const auto note = static_cast<NoteType>(type);
  const char* name = name_of(note);
  if (name == nullptr || head.version > kNoteVersion) {
    if ((head.flags & kMustUnderstand) == 0) return;
    throw Refusal(Failure::bad_image,
                  name == nullptr
                      ? fmt::format("the image has a note of type {:#x} at byte {}, which must be "
                                    "understood and is unknown here",
                                    type, offset)
                      : fmt::format("the image's note '{}' at byte {} has version {}, this program "
                                    "reads up to {}",
                                    name, offset, head.version, kNoteVersion),
                  kTakeALaterOne);
  }
  if (first_offset(note) == 0) first_offsets_.emplace_back(note, offset);
  try {
    take_ours(note, head, descriptor.subspan(sizeof head));
  } catch (const FieldError& error) {
    if (!error.later()) throw error.within(name);
    throw Refusal(Failure::bad_image,
                  fmt::format("the image's note '{}' at byte {}: {}", name, offset,
                              visible(error.field() + " " + error.why())),
                  kTakeALaterOne);
  }
}

void NoteReader::take_core(uint32_t type, std::span<const std::byte> descriptor) {
  if (type == NT_PRSTATUS) {
    const auto [tid, registers] = read_prstatus(descriptor);
    core_threads_.push_back({tid, registers, {}, {}});
    return;
  }
  if (type != NT_FPREGSET && type != NT_X86_XSTATE) return;
  if (core_threads_.empty()) throw FieldError("registers", "come before any thread");
  (type == NT_FPREGSET ? core_threads_.back().floating_point : core_threads_.back().xstate) =
      descriptor;
}

Process& NoteReader::process(uint32_t index) {
  // A process note comes before its lists and behind all of the process before it.
  if (snapshot_.processes.size() != size_t{index} + 1) {
    throw FieldError("process", "is out of order");
  }
  return snapshot_.processes.back();
}

void NoteReader::take_ours(NoteType type, const NoteHead& head, std::span<const std::byte> cbor) {
  if (cbor.size() > kMaxNote) throw FieldError("note", "is larger than 512 MiB");
  const json value = parse_cbor(cbor);
  switch (type) {
    case NoteType::host:
      value.get_to(snapshot_.host);
      break;
    case NoteType::snapshot:
      snapshot_head_from_json(value, snapshot_);
      break;
    case NoteType::files:
      read_table(value, snapshot_.files);
      break;
    case NoteType::objects:
      read_table(value, snapshot_.objects);
      break;
    case NoteType::descriptions:
      read_table(value, snapshot_.descriptions);
      break;
    case NoteType::process:
      snapshot_.processes.emplace_back();
      process_head_from_json(value, process(head.process));
      break;
    case NoteType::threads: {
      std::vector<Thread>& threads = process(head.process).threads;
      read_table(value, threads, [&](json& element) {
        if (head.process != 0) return;
        if (threads.size() >= core_threads_.size()) {
          throw FieldError("registers", "are missing for a thread");
        }
        const CoreThread& core = core_threads_[threads.size()];
        if (element.value("tid", json()) != core.tid) {
          throw FieldError("tid", "is not the one of the registers");
        }
        element["registers"] = binary(core.registers);
        element["floating_point"] = binary(core.floating_point);
        element["xstate"] = binary(core.xstate);
      });
      break;
    }
    case NoteType::mappings:
      read_table(value, process(head.process).mappings);
      break;
    case NoteType::descriptors:
      read_table(value, process(head.process).descriptors);
      break;
  }
}

void NoteReader::finish() {
  for (const NoteType type : {NoteType::host, NoteType::snapshot, NoteType::process}) {
    if (first_offset(type) == 0) throw FieldError(name_of(type), "has no note");
  }
  if (snapshot_.processes[0].threads.size() != core_threads_.size()) {
    throw FieldError("threads", "has no row for some registers");
  }
}

uint64_t NoteReader::first_offset(NoteType type) const {
  const auto found = std::ranges::find(first_offsets_, type, &std::pair<NoteType, uint64_t>::first);
  return found == first_offsets_.end() ? 0 : found->second;
}

}  // namespace rfork::image
