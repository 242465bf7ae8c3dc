#include "tools/dump_diff.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/error.h"
#include "base/text.h"
#include "image/json.h"
#include "tools/byte_words.h"
#include "tools/descriptor_words.h"
#include "tools/kernel_words.h"
#include "tools/process_words.h"

namespace rfork::tools {

namespace {

using namespace rfork::image;
using nlohmann::json;

constexpr uint64_t kPage = 4096;

json threads_of(const Process& process) {
  json list = json::array();
  for (const Thread& thread : process.threads) {
    json value = thread;
    value["registers"] = registers_json(thread.registers);
    list.push_back(std::move(value));
  }
  return list;
}

/// A description has the number of the first descriptor that leads to it: its id is of one capture.
json descriptors_of(const Snapshot& snapshot, const Process& process) {
  const auto first_with = [&](uint32_t description) {
    const auto found =
        std::ranges::find(process.descriptors, description, &Descriptor::description);
    return found == process.descriptors.end() ? json(nullptr) : json(found->fd);
  };
  json list = json::array();
  for (const Descriptor& descriptor : process.descriptors) {
    json value = descriptor;
    value.erase("description");
    const json first = first_with(descriptor.description);
    if (first != descriptor.fd) {
      value["same_as"] = first;
      list.push_back(std::move(value));
      continue;
    }
    const Description* description = find_id(snapshot.descriptions, descriptor.description);
    if (description != nullptr) {
      value.update(json(*description));
      for (const char* const name : {"id", "file", "object"}) value.erase(name);
      if (description->other != 0) value["other"] = first_with(description->other);
    }
    list.push_back(std::move(value));
  }
  return list;
}

json without_ids(const std::vector<File>& files) {
  json list = json::array();
  for (const File& file : files) {
    json value = file;
    value.erase("id");
    list.push_back(std::move(value));
  }
  return list;
}

json own_of(const Snapshot& snapshot, const Process& process) {
  json value = process_head_to_json(process);
  // Of the moment: the rest of a system call's time, and what the executable's number means.
  value.erase("patches");
  const File* file = find_id(snapshot.files, process.executable);
  value["executable"] = process.executable_deleted || file == nullptr ? json() : json(file->path);
  return value;
}

std::string pages_words(uint64_t pages) {
  return fmt::format("{} page{} ({})", pages, pages == 1 ? "" : "s", human_bytes(pages * kPage));
}

const char* name_of_kind(MemoryChange::Kind kind) {
  return kind == MemoryChange::Kind::came   ? "came"
         : kind == MemoryChange::Kind::went ? "went"
                                            : "changed";
}

std::string flags_of(const Mapping& mapping) {
  const std::string advice = advice_words(mapping.advice);
  return fmt::format("{} {}{}", protection_words(mapping.protection),
                     map_flag_words(mapping.shared, mapping.grows_down, mapping.no_reserve,
                                    mapping.huge_page_size),
                     advice.empty() ? "" : " " + advice);
}

std::string words_of(const MemoryChange& change) {
  const Mapping& mapping = change.after != nullptr ? *change.after : *change.before;
  std::string text = fmt::format("{:#x}-{:#x} {}", mapping.range.start, mapping.range.end,
                                 mapping.name.empty() ? "anonymous" : plain(mapping.name));
  if (change.kind != MemoryChange::Kind::changed) {
    return fmt::format("{} {}: {}, {} carried", text, name_of_kind(change.kind), flags_of(mapping),
                       pages_words(change.pages));
  }
  const Mapping& old = *change.before;
  std::string what;
  const auto add = [&](const std::string& part) { what += (what.empty() ? "" : ", ") + part; };
  if (change.pages != 0) add(pages_words(change.pages) + " changed");
  if (mapping.range.end > old.range.end)
    add("grew by " + human_bytes(mapping.range.end - old.range.end));
  if (mapping.range.end < old.range.end)
    add("shrank by " + human_bytes(old.range.end - mapping.range.end));
  if (flags_of(old) != flags_of(mapping)) add(flags_of(old) + " → " + flags_of(mapping));
  if (old.kind != mapping.kind)
    add(fmt::format("{} → {}", name_of(old.kind), name_of(mapping.kind)));
  if (old.name != mapping.name) add("was " + (old.name.empty() ? "anonymous" : plain(old.name)));
  return text + ": " + (what.empty() ? "changed" : what);
}

std::string words_of(const ObjectChange& change) {
  const Object& object = change.after != nullptr ? *change.after : *change.before;
  const std::string text = fmt::format("{} {}", name_of(object.kind), plain(object.name));
  if (change.kind != MemoryChange::Kind::changed) {
    return fmt::format("{} {}: {}", text, name_of_kind(change.kind), human_bytes(object.size));
  }
  std::string what;
  const auto add = [&](const std::string& part) { what += (what.empty() ? "" : ", ") + part; };
  if (change.pages != 0) add(pages_words(change.pages) + " changed");
  if (change.before->size != object.size)
    add(fmt::format("{} → {} bytes", change.before->size, object.size));
  if (change.before->seals != object.seals) {
    const auto seals = [](uint32_t set) { return set == 0 ? "none" : seal_words(set); };
    add(fmt::format("seals: {} → {}", seals(change.before->seals), seals(object.seals)));
  }
  return text + ": " + what;
}

std::string words_of(const Change& change) {
  const std::string what =
      change.field.empty() ? change.subject : change.subject + " " + change.field;
  if (change.kind != Change::Kind::changed) {
    const std::string& gist =
        change.kind == Change::Kind::came ? change.after_words : change.before_words;
    return fmt::format("{} {}{}", what, name_of(change.kind), gist.empty() ? "" : ": " + gist);
  }
  if (change.before_words == change.after_words) {
    if (!change.before.is_number() || !change.after.is_number()) return what + " changed";
    return fmt::format("{}: {} → {}", what, change.before.dump(), change.after.dump());
  }
  return fmt::format("{}: {} → {}", what, change.before_words, change.after_words);
}

template <typename List>
uint64_t sum_of_pages(const List& list) {
  uint64_t pages = 0;
  for (const auto& change : list) pages += change.pages;
  return pages;
}

template <typename List>
json list_json(const List& list) {
  json out = json::array();
  for (const auto& change : list) {
    out.push_back({{"change", name_of_kind(change.kind)},
                   {"pages", change.pages},
                   {"before", change.before == nullptr ? json() : json(*change.before)},
                   {"after", change.after == nullptr ? json() : json(*change.after)}});
  }
  return out;
}

}  // namespace

ImageDiff compare_images(const ImageFile& before, const ImageFile& after) {
  const Snapshot& old = before.metadata.snapshot;
  const Snapshot& fresh = after.metadata.snapshot;
  if (old.processes.size() != 1 || fresh.processes.size() != 1) {
    throw Refusal(Failure::bad_image, "only images of one process each can be compared");
  }
  const Process& a = old.processes[0];
  const Process& b = fresh.processes[0];
  ImageDiff diff;
  compare_values(old.host, fresh.host, "host", "host", diff.fields);
  compare_values(own_of(old, a), own_of(fresh, b), "processes", "process", diff.fields);
  compare_lists(threads_of(a), threads_of(b), "processes.threads", "thread", diff.fields);
  compare_lists(descriptors_of(old, a), descriptors_of(fresh, b), "descriptions", "descriptor",
                diff.fields);
  compare_lists(without_ids(old.files), without_ids(fresh.files), "files", "file", diff.fields);
  diff.mappings = compare_memory(before, after);
  diff.objects = compare_objects(before, after);
  return diff;
}

void print_diff(const ImageDiff& diff, const ImageFile& before, const ImageFile& after,
                std::FILE* out) {
  if (diff.same()) return;
  const Snapshot& old = before.metadata.snapshot;
  const Snapshot& fresh = after.metadata.snapshot;
  fmt::print(out, "process {}: {}, {} after the first image\n", fresh.processes[0].pid,
             plain(fresh.processes[0].name), duration_words(fresh.realtime_ns - old.realtime_ns));
  for (const Change& change : diff.fields) fmt::print(out, "  {}\n", words_of(change));
  for (const MemoryChange& change : diff.mappings) {
    fmt::print(out, "  mapping {}\n", words_of(change));
  }
  for (const ObjectChange& change : diff.objects) fmt::print(out, "  {}\n", words_of(change));
  const uint64_t pages = sum_of_pages(diff.mappings) + sum_of_pages(diff.objects);
  if (pages != 0) fmt::print(out, "  in all {} of contents\n", pages_words(pages));
}

void print_diff_json(const ImageDiff& diff, std::FILE* out) {
  json fields = json::array();
  for (const Change& change : diff.fields) {
    fields.push_back({{"subject", change.subject},
                      {"field", change.field},
                      {"change", name_of(change.kind)},
                      {"before", change.before},
                      {"after", change.after},
                      {"before_words", change.before_words},
                      {"after_words", change.after_words}});
  }
  const json value = {{"same", diff.same()},
                      {"fields", std::move(fields)},
                      {"mappings", list_json(diff.mappings)},
                      {"objects", list_json(diff.objects)},
                      {"pages", sum_of_pages(diff.mappings) + sum_of_pages(diff.objects)}};
  fmt::print(out, "{}\n", printable(value).dump(-1, ' ', false, json::error_handler_t::replace));
}

}  // namespace rfork::tools
