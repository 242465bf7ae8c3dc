// The fields of the model (image/json.h) in the words of the man pages, by their names in JSON:
// what a later version adds is shown by itself, and has words here or is a plain number.
//
// A path is the names from the snapshot down, without indices: "processes.threads.alt_stack.flags".
#pragma once

#include <cstdio>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

namespace rfork::tools {

/// nullopt: the value says itself what it is.
std::optional<std::string> field_words(const std::string& path, const nlohmann::json& value);
/// The value for a person: in words, or as an address, a time, a number, a word.
std::string field_text(const std::string& path, const nlohmann::json& value);
/// What an element of a list of fixed order is: `RLIMIT_NOFILE`; else its index.
std::string element_name(const std::string& path, size_t index);

/// Zero, empty, no, or made of such.
bool is_unset(const nlohmann::json& value);

/// Prints what is set of `value`, each line behind `indent` blanks and at most 100 columns long if
/// it can be.
void print_fields(const nlohmann::json& value, const std::string& path, size_t indent,
                  std::FILE* out);

/// `head` and `text`, which goes on behind `hanging` blanks where a line would have more than 100
/// columns.
void print_wrapped(const std::string& head, const std::string& text, size_t hanging,
                   std::FILE* out);

/// Puts a member NAME_words beside each member that has words.
void add_words(nlohmann::json& value, const std::string& path);

}  // namespace rfork::tools
