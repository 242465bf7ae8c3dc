// A user of this host by name. Apart from what needs no names: a program without shared libraries,
// as rfork-run is, can't look users up where libc's modules do that.
#pragma once

#include <sys/types.h>

#include <string>
#include <vector>

namespace rfork::loader {

struct NamedUser {
  std::string name;
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;
};

/// Throws Refusal(destination_refused) when there is no such user here.
NamedUser named_user(const std::string& name);

}  // namespace rfork::loader
