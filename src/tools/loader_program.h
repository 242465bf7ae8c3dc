// rfork-trace's search for the program that is put in front of images that run by themselves.
#pragma once

#include <string>

#include "base/io.h"

namespace rfork::tools {

struct LoaderFront {
  Bytes bytes;                   ///< see image/front.h
  std::string program;           ///< the path that it was made of
  bool needs_libraries = false;  ///< of the host that it is run on
};

/// Made of the rfork-run beside this program, in ../libexec/rfork, or in PATH. Throws Refusal that
/// says where it was looked for, and Error when it can't be read.
LoaderFront loader_front();

}  // namespace rfork::tools
