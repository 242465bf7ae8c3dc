#include "tools/dump_json.h"

#include <fmt/format.h>

#include "image/json.h"
#include "tools/byte_words.h"
#include "tools/field_words.h"

namespace rfork::tools {

namespace {

using namespace rfork::image;
using nlohmann::json;

/// Names from an image need not be UTF-8, JSON must be.
std::string text_of(json value) {
  return printable(std::move(value)).dump(-1, ' ', false, json::error_handler_t::replace);
}

void put(std::FILE* out, const std::string& text) {
  std::fputs(text.c_str(), out);
}

json value_of(const Thread& thread) {
  json value = thread;
  value["registers"] = registers_json(thread.registers);
  return value;
}
template <typename T>
json value_of(const T& element) {
  return element;
}

template <typename T>
void put_list(std::FILE* out, const char* name, const std::vector<T>& list) {
  put(out, fmt::format(",\"{}\":[", name));
  const char* between = "";
  for (const T& element : list) {
    json value = value_of(element);
    add_words(value, name);
    put(out, between + text_of(std::move(value)));
    between = ",";
  }
  put(out, "]");
}

/// A JSON object without its closing brace, to go on with.
std::string open_object(json value) {
  std::string text = text_of(std::move(value));
  text.pop_back();
  return text;
}

}  // namespace

void print_json(const Metadata& metadata, bool verified, std::FILE* out) {
  const Snapshot& snapshot = metadata.snapshot;
  json head = snapshot_head_to_json(snapshot);
  head["host"] = snapshot.host;
  add_words(head, "snapshot");
  head["image"] = {{"total_size", metadata.total_size},
                   {"data_offset", metadata.data_offset},
                   {"data_size", metadata.data_size},
                   {"trailer_size", metadata.trailer_size},
                   {"verified", verified}};
  head["needs"] = needs_of(snapshot).abilities;
  put(out, open_object(std::move(head)));
  put_list(out, "files", snapshot.files);
  put_list(out, "objects", snapshot.objects);
  put_list(out, "descriptions", snapshot.descriptions);
  put(out, ",\"processes\":[");
  const char* between = "";
  for (const Process& process : snapshot.processes) {
    json own = process_head_to_json(process);
    add_words(own, "processes");
    put(out, between + open_object(std::move(own)));
    put_list(out, "threads", process.threads);
    put_list(out, "mappings", process.mappings);
    put_list(out, "descriptors", process.descriptors);
    put(out, "}");
    between = ",";
  }
  put(out, "]");
  put_list(out, "runs", metadata.runs);
  put(out, "}\n");
}

}  // namespace rfork::tools
