#include "tools/diff_fields.h"

#include <map>

#include "tools/field_words.h"
#include "tools/kernel_words.h"

namespace rfork::tools {

namespace {

using nlohmann::json;

bool is_list_of_objects(const json& value) {
  return value.is_array() && !value.empty() && value[0].is_object();
}

std::string key_of(const json& element, const std::string& path, size_t index) {
  for (const char* const name : {"tid", "fd", "wd", "path", "id", "signal", "name"}) {
    const auto found = element.find(name);
    if (found == element.end() || is_unset(*found)) continue;
    return field_text(path + "." + name, *found);
  }
  return element_name(path, index);
}

/// The elements by their keys; of two with one key the second has a number behind it.
std::map<std::string, json> by_key(const json& list, const std::string& path) {
  std::map<std::string, json> keyed;
  for (size_t i = 0; i < list.size(); ++i) {
    const std::string key = key_of(list[i], path, i);
    std::string name = key;
    for (int number = 2; keyed.contains(name); ++number)
      name = key + " (" + std::to_string(number) + ")";
    keyed.emplace(name, list[i]);
  }
  return keyed;
}

/// What of an element says which one it is.
std::string gist_of(const json& element, const std::string& path) {
  std::string text;
  for (const char* const name : {"kind", "name", "path", "handler"}) {
    const auto found = element.find(name);
    if (found == element.end() || !(found->is_string() || found->is_number()) || is_unset(*found))
      continue;
    text += (text.empty() ? "" : " ") + field_text(path + "." + name, *found);
  }
  return text;
}

void compare_fields(const json& before, const json& after, const std::string& path,
                    const std::string& subject, const std::string& field,
                    std::vector<Change>& changes);

void compare_elements(const json& before, const json& after, const std::string& path,
                      const std::string& subject, const std::string& field,
                      std::vector<Change>& changes) {
  const auto old = by_key(before, path), fresh = by_key(after, path);
  for (const auto& [key, element] : old) {
    const std::string name = field + " " + key;
    const auto found = fresh.find(key);
    if (found == fresh.end()) {
      changes.push_back(
          {Change::Kind::went, subject, name, element, nullptr, gist_of(element, path), ""});
    } else {
      compare_fields(element, found->second, path, subject, name, changes);
    }
  }
  for (const auto& [key, element] : fresh) {
    if (old.contains(key)) continue;
    changes.push_back({Change::Kind::came, subject, field + " " + key, nullptr, element, "",
                       gist_of(element, path)});
  }
}

void compare_fields(const json& before, const json& after, const std::string& path,
                    const std::string& subject, const std::string& field,
                    std::vector<Change>& changes) {
  if (before == after) return;
  if (before.is_object() && after.is_object()) {
    json names = before;
    names.update(after);
    for (const auto& [name, ignored] : names.items()) {
      compare_fields(before.value(name, json()), after.value(name, json()), path + "." + name,
                     subject, field.empty() ? name : field + " " + name, changes);
    }
  } else if (is_list_of_objects(before) || is_list_of_objects(after)) {
    compare_elements(before.is_array() ? before : json::array(),
                     after.is_array() ? after : json::array(), path, subject, field, changes);
  } else {
    changes.push_back({Change::Kind::changed, subject, field, before, after,
                       before.is_object() ? "set" : field_text(path, before),
                       after.is_object() ? "set" : field_text(path, after)});
  }
}

}  // namespace

void compare_values(const json& before, const json& after, const std::string& path,
                    const std::string& subject, std::vector<Change>& changes) {
  compare_fields(before, after, path, subject, "", changes);
}

void compare_lists(const json& before, const json& after, const std::string& path,
                   const std::string& word, std::vector<Change>& changes) {
  const auto old = by_key(before, path), fresh = by_key(after, path);
  for (const auto& [key, element] : old) {
    const std::string subject = word + " " + key;
    const auto found = fresh.find(key);
    if (found != fresh.end()) {
      compare_fields(element, found->second, path, subject, "", changes);
    } else {
      changes.push_back(
          {Change::Kind::went, subject, "", element, nullptr, gist_of(element, path), ""});
    }
  }
  for (const auto& [key, element] : fresh) {
    if (old.contains(key)) continue;
    changes.push_back(
        {Change::Kind::came, word + " " + key, "", nullptr, element, "", gist_of(element, path)});
  }
}

const char* name_of(Change::Kind kind) {
  switch (kind) {
    case Change::Kind::changed:
      return "changed";
    case Change::Kind::came:
      return "came";
    case Change::Kind::went:
      return "went";
  }
  return "unknown";
}

}  // namespace rfork::tools
