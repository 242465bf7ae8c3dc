// What every program's main() does: read the command line, do the work, say what went wrong in the
// words and with the exit code of base/error.h.
#pragma once

#include <CLI/CLI.hpp>
#include <exception>

#include "base/error.h"

namespace rfork {

/// Gives main()'s result. `body` gives the exit code of success; what it throws is reported, as
/// JSON when `json`, which the command line may have set.
template <typename Body>
int run_program(const char* name, CLI::App& app, int argc, char** argv, const bool& json,
                Body body) {
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : static_cast<int>(Failure::usage);
  }
  try {
    return body();
  } catch (const std::exception& error) {
    return report_failure(name, error, json);
  }
}

}  // namespace rfork
