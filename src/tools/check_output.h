// What `rfork-trace --check` prints.
#pragma once

#include <nlohmann/json.hpp>
#include <string>

#include "session/check_process.h"

namespace rfork {

/// What was asked.
struct CheckQuestion {
  std::string to;  ///< a host or a file; empty: neither
  bool move = false;
  bool into_file = false;
};

/// For a person, in lines of at most 100 columns.
std::string check_text(const session::CheckReport& report, const CheckQuestion& question);
nlohmann::json check_json(const session::CheckReport& report, const CheckQuestion& question);
/// What the real run would exit with.
int exit_code(const session::CheckReport& report);

}  // namespace rfork
