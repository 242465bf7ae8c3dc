// What differs between two values of the model in JSON: by the names of their fields, so that what
// a later version adds is compared by itself.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace rfork::tools {

struct Change {
  enum class Kind { changed, came, went };
  Kind kind = Kind::changed;
  std::string subject;           ///< `descriptor 5`
  std::string field;             ///< `offset`, `alt_stack flags`; empty: all of it
  nlohmann::json before, after;  ///< null where it came or went
  std::string before_words, after_words;
};

/// Adds what differs. `path` is as in field_words.h. Elements of lists are the same ones when their
/// key (tid, fd, wd, path, id, signal) is, or else their index.
void compare_values(const nlohmann::json& before, const nlohmann::json& after,
                    const std::string& path, const std::string& subject,
                    std::vector<Change>& changes);

/// The same of a list whose elements are subjects themselves: `thread 17`.
void compare_lists(const nlohmann::json& before, const nlohmann::json& after,
                   const std::string& path, const std::string& word, std::vector<Change>& changes);

const char* name_of(Change::Kind kind);

}  // namespace rfork::tools
