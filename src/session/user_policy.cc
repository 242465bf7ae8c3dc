#include "session/user_policy.h"

#include <fmt/format.h>
#include <grp.h>
#include <pwd.h>
#include <unistd.h>

#include <cstdlib>

#include "base/error.h"

namespace rfork::session {

namespace {

std::string name_of_user(uid_t uid) {
  const passwd* const entry = getpwuid(uid);
  return entry != nullptr ? entry->pw_name : std::to_string(uid);
}

[[noreturn]] void refuse(std::string what, std::string advice) {
  throw Refusal(Failure::destination_refused, std::move(what), std::move(advice));
}

ChosenUser own_user(const Offer& offer) {
  ChosenUser own{name_of_user(geteuid()), geteuid(), getegid(), false, {}};
  if (offer.uid != own.uid) {
    own.warnings.push_back(fmt::format("it runs as {} (uid {}) there, not as {} (uid {})", own.name,
                                       own.uid, offer.user.empty() ? "?" : offer.user, offer.uid));
  }
  return own;
}

}  // namespace

ChosenUser choose_user(const Offer& offer, const UserPolicy& policy) {
  if (geteuid() != 0) return own_user(offer);
  if (offer.user.empty() && offer.uid != 0) {
    refuse(fmt::format("uid {} has no name at the origin, so no user here is known to be the same",
                       offer.uid),
           "run rforkd as the user that shall own the child");
  }
  const passwd* const entry = getpwnam(offer.user.c_str());
  if (offer.uid == 0 || offer.user == "root" || (entry != nullptr && entry->pw_uid == 0)) {
    if (!policy.allow_root && !policy.allow_all) {
      refuse("rforkd runs nothing as root",
             "start it with --allow-root if every holder of the key may be root there");
    }
    // Root is root, whether or not this host has a list of users.
    return {"root", 0, 0, true, {}};
  }
  if (!policy.allow_all && !policy.allowed_users.contains(offer.user)) {
    refuse(fmt::format("rforkd may not run anything as {}", offer.user),
           fmt::format("start it with --allow-user {}", offer.user));
  }
  if (entry == nullptr) {
    refuse(fmt::format("there is no user {}", offer.user),
           "make that user there, or run rforkd as the user that shall own the child");
  }
  ChosenUser user{offer.user, entry->pw_uid, entry->pw_gid, true, {}};
  if (offer.uid != user.uid) {
    user.warnings.push_back(
        fmt::format("{} has uid {} there, not {}", user.name, user.uid, offer.uid));
  }
  return user;
}

ActingAs::ActingAs(const ChosenUser& user) {
  if (!user.change || user.uid == 0) return;
  groups_.resize(static_cast<size_t>(getgroups(0, nullptr)));
  if (getgroups(static_cast<int>(groups_.size()), groups_.data()) < 0) throw_errno("getgroups");
  gid_ = getegid();
  if (initgroups(user.name.c_str(), user.gid) != 0) throw_errno("initgroups", user.name);
  if (setegid(user.gid) != 0) throw_errno("setegid", user.name);
  if (seteuid(user.uid) != 0) throw_errno("seteuid", user.name);
  changed_ = true;
}

ActingAs::~ActingAs() {
  if (!changed_) return;
  // To go on as neither the one nor the other would be worse than to end: only a worker is lost.
  if (seteuid(0) != 0 || setegid(gid_) != 0 || setgroups(groups_.size(), groups_.data()) != 0) {
    std::abort();
  }
}

}  // namespace rfork::session
