// What becomes of each part of a process, for people and for scripts.
#pragma once

#include <string>
#include <vector>

#include "session/check_process.h"

namespace rfork {

enum class Fate {
  carried,   ///< goes along
  reopened,  ///< is there under the same name, and opened again
  fetched,   ///< isn't there: its contents travel
  relayed,   ///< stays, reached through the ghost
  changed,   ///< is different there
  lost,      ///< given up, by an option
};
const char* name_of(Fate fate);

struct CheckItem {
  Fate fate = Fate::carried;
  std::vector<int> descriptors;  ///< may be empty
  std::string what;
  std::vector<std::string> files;  ///< that it counts
};

/// In the order of Fate, and of descriptors.
std::vector<CheckItem> items_of(const session::CheckReport& report, bool into_file);

}  // namespace rfork
