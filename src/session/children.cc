#include "session/children.h"

#include <fmt/format.h>

#include <algorithm>
#include <charconv>

#include "base/error.h"

namespace rfork::session {

namespace {

constexpr size_t kMaxAborted = 4096;  ///< move ids that are remembered as aborted

Resolution resolution_of(const Child& child) {
  Resolution resolution;
  const bool ended = child.info.state == ChildState::ended;
  resolution.state = ended ? Resolution::State::ended : Resolution::State::running;
  resolution.child_id = child.info.id;
  resolution.pid = child.info.pid;
  resolution.description = ended ? "ended: " + describe(child.info.end) : "running";
  return resolution;
}

Resolution aborted_resolution() {
  return {Resolution::State::aborted, "", 0, "it was not let run there, and never will be"};
}

}  // namespace

Child& Children::announce(ChildInfo info, WorkerId worker) {
  const bool seen = std::ranges::any_of(
      children_, [&](const auto& entry) { return entry.second.info.move_id == info.move_id; });
  if (seen || std::ranges::find(aborted_, info.move_id) != aborted_.end()) {
    throw Refusal(Failure::destination_refused,
                  fmt::format("move {} is known here already", info.move_id));
  }
  const uint64_t number = next_number_++;
  Child child;
  child.number = number;
  child.info = std::move(info);
  child.info.id = std::to_string(number);
  child.info.state = ChildState::receiving;
  child.worker = worker;
  return children_.emplace(number, std::move(child)).first->second;
}

Child* Children::of_worker(WorkerId worker) {
  for (auto& [number, child] : children_) {
    if (child.worker == worker && child.info.state < ChildState::running) return &child;
  }
  return nullptr;
}

Child* Children::running_of(WorkerId worker) {
  for (auto& [number, child] : children_) {
    if (child.worker == worker && child.info.state == ChildState::running) return &child;
  }
  return nullptr;
}

Child* Children::look_up(const std::string& id) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(id.data(), id.data() + id.size(), number);
  if (error != std::errc{} || end != id.data() + id.size()) return nullptr;
  const auto found = children_.find(number);
  return found == children_.end() ? nullptr : &found->second;
}

Child& Children::find(const std::string& id) {
  Child* const child = look_up(id);
  if (child == nullptr) {
    throw Refusal(Failure::destination_refused, fmt::format("there is no child {}", id),
                  "rforkctl HOST ps lists them");
  }
  return *child;
}

Child* Children::by_wait_pid(pid_t pid) {
  // The newest: a pid may be used again, and the init of a child that ended not be waited for.
  for (auto at = children_.rbegin(); at != children_.rend(); ++at) {
    if (at->second.wait_pid == pid) return &at->second;
  }
  return nullptr;
}

bool Children::grant(Child& child) {
  if (child.aborting || child.info.state != ChildState::ready) return false;
  child.info.state = ChildState::granted;
  return true;
}

void Children::let_go(Child& child, int64_t now_ns) {
  child.info.state = ChildState::running;
  child.info.since_ns = now_ns;
}

void Children::end(Child& child, const loader::ChildEnd& how, int64_t now_ns) {
  child.info.state = ChildState::ended;
  child.info.stopped = false;
  child.info.end = how;
  child.info.ended_ns = now_ns;
  child.pidfd.reset();
  child.end_pipe.reset();
}

std::vector<Child> Children::take_excess() {
  std::vector<Child*> ended;
  for (auto& [number, other] : children_) {
    if (other.info.state == ChildState::ended) ended.push_back(&other);
  }
  std::vector<Child> forgotten;
  if (ended.size() <= max_ended_) return forgotten;
  std::ranges::sort(ended, {}, [](const Child* one) { return one->info.ended_ns; });
  ended.resize(ended.size() - max_ended_);
  for (Child* one : ended) {
    const uint64_t number = one->number;
    forgotten.push_back(std::move(*one));
    children_.erase(number);
  }
  return forgotten;
}

void Children::abort(Child& child) {
  remember_aborted(child.info.move_id);
  children_.erase(child.number);
}

Child Children::remove(const std::string& id) {
  Child& child = find(id);
  if (child.info.state != ChildState::ended) {
    throw Refusal(Failure::destination_refused, fmt::format("child {} has not ended", id),
                  fmt::format("rforkctl HOST kill {} ends it", id));
  }
  Child removed = std::move(child);
  children_.erase(removed.number);
  return removed;
}

std::optional<Resolution> Children::resolve(const std::string& move_id,
                                            std::optional<WorkerId>& abort_worker) {
  for (auto& [number, child] : children_) {
    if (child.info.move_id != move_id) continue;
    switch (child.info.state) {
      case ChildState::receiving:
      case ChildState::ready:
        if (!child.aborting) abort_worker = child.worker;
        child.aborting = true;
        return aborted_resolution();
      case ChildState::granted:
        return std::nullopt;
      case ChildState::running:
      case ChildState::ended:
        return resolution_of(child);
    }
  }
  if (std::ranges::find(aborted_, move_id) != aborted_.end()) return aborted_resolution();
  return Resolution{Resolution::State::unknown, "", 0,
                    "nothing is known of it: rforkd was started anew, or has forgotten it"};
}

std::vector<const Child*> Children::list(uint64_t after, size_t most) const {
  std::vector<const Child*> part;
  for (auto at = children_.upper_bound(after); at != children_.end() && part.size() < most; ++at) {
    part.push_back(&at->second);
  }
  return part;
}

size_t Children::alive() const {
  return static_cast<size_t>(std::ranges::count_if(
      children_, [](const auto& entry) { return entry.second.info.state == ChildState::running; }));
}

void Children::remember_aborted(std::string move_id) {
  aborted_.push_back(std::move(move_id));
  if (aborted_.size() > kMaxAborted) aborted_.pop_front();
}

}  // namespace rfork::session
