// As which user a child may run here.
//
// A daemon that is no root runs children as its own user: it can't do else. A daemon that is root
// runs a child as the user that the process had at its origin, by name, and only when it was told
// to trust whoever holds the key with that user.
#pragma once

#include <sys/types.h>

#include <optional>
#include <set>
#include <string>
#include <vector>

#include "session/offer.h"

namespace rfork::session {

struct UserPolicy {
  std::set<std::string> allowed_users;  ///< --allow-user; matters to root only
  bool allow_root = false;              ///< --allow-root
  bool allow_all = false;               ///< --stdio: it was this daemon's own user who asked
};

/// As whom a child will run.
struct ChosenUser {
  std::string name;  ///< for people; a number when it has no name
  uid_t uid = 0;
  gid_t gid = 0;
  bool change = false;  ///< this daemon must change to it (loader::Options::user)
  std::vector<std::string> warnings;
};

/// Throws Refusal(destination_refused) with the option that would allow it.
ChosenUser choose_user(const Offer& offer, const UserPolicy& policy);

/// Looks at files as that user while it lives, so that nobody gets a file of root's by naming it.
/// For a process with one thread. Does nothing unless `user.change`.
class ActingAs {
 public:
  explicit ActingAs(const ChosenUser& user);
  ~ActingAs();
  ActingAs(const ActingAs&) = delete;
  ActingAs& operator=(const ActingAs&) = delete;

 private:
  bool changed_ = false;
  std::vector<gid_t> groups_;
  gid_t gid_ = 0;
};

}  // namespace rfork::session
