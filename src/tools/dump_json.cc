#include "tools/dump_json.h"

#include <fmt/format.h>
#include <sys/user.h>

#include <cstring>

#include "image/json.h"

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

/// The registers by name instead of as bytes.
json registers_of(const Thread& thread) {
  user_regs_struct r{};
  std::memcpy(&r, thread.registers.data(), std::min(sizeof r, thread.registers.size()));
  return {{"r15", r.r15},
          {"r14", r.r14},
          {"r13", r.r13},
          {"r12", r.r12},
          {"rbp", r.rbp},
          {"rbx", r.rbx},
          {"r11", r.r11},
          {"r10", r.r10},
          {"r9", r.r9},
          {"r8", r.r8},
          {"rax", r.rax},
          {"rcx", r.rcx},
          {"rdx", r.rdx},
          {"rsi", r.rsi},
          {"rdi", r.rdi},
          {"orig_rax", r.orig_rax},
          {"rip", r.rip},
          {"cs", r.cs},
          {"eflags", r.eflags},
          {"rsp", r.rsp},
          {"ss", r.ss},
          {"fs_base", r.fs_base},
          {"gs_base", r.gs_base},
          {"ds", r.ds},
          {"es", r.es},
          {"fs", r.fs},
          {"gs", r.gs}};
}

json value_of(const Thread& thread) {
  json value = thread;
  value["registers"] = registers_of(thread);
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
    put(out, between + text_of(value_of(element)));
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
    put(out, between + open_object(process_head_to_json(process)));
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
