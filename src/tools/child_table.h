// `rforkctl ps`: a daemon's children as a table, or as JSON.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "session/child_info.h"

namespace rfork {

/// What is known of a child, and nothing that isn't: what it uses is null where that is unknown.
nlohmann::json to_json(const session::ChildInfo& child);

/// Lines, each with its newline; columns are as wide as they have to be.
std::string child_table(const std::vector<session::ChildInfo>& children);

}  // namespace rfork
