#include "loader/named_user.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>

#include "base/error.h"

namespace rfork::loader {

NamedUser named_user(const std::string& name) {
  const passwd* entry = ::getpwnam(name.c_str());
  if (entry == nullptr) {
    throw Refusal(Failure::destination_refused, fmt::format("there is no user {} here", name));
  }
  NamedUser user{name, entry->pw_uid, entry->pw_gid, {}};
  int count = 1024;
  user.groups.resize(static_cast<size_t>(count));
  if (::getgrouplist(name.c_str(), user.gid, user.groups.data(), &count) < 0) count = 0;
  user.groups.resize(static_cast<size_t>(count));
  return user;
}

}  // namespace rfork::loader
