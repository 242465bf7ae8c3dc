// Pseudo-terminals of the image: new ones, whose numbers the kernel chooses.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "base/unique_fd.h"
#include "image/model.h"
#include "loader/findings.h"
#include "loader/plan_writer.h"

namespace rfork::loader {

class PseudoTerminals {
 public:
  PseudoTerminals(const image::Snapshot& snapshot, Findings& findings)
      : snapshot_(snapshot), findings_(findings) {}

  /// An end. Empty, with a finding, when it can't be had.
  UniqueFd open(const image::Description& description);
  /// When all ends are open: modes, and what keeps more of them from being opened. `foreground`:
  /// the child stays in its caller's session.
  void complete(bool foreground);
  /// The child's own call: makes the one that was its session's that again.
  void add_controlling(PlanWriter& plan, const image::Process& process) const;
  /// Closes what no description has.
  void let_go() { made_.clear(); }

 private:
  struct Made {
    UniqueFd master;
    std::map<uint32_t, UniqueFd> slaves;  ///< by description
  };

  Made* make(uint32_t master);
  UniqueFd open_slave(Made& made, const image::Description& description);
  void set_state(Made& made, const image::Description& master);

  const image::Snapshot& snapshot_;
  Findings& findings_;
  std::map<uint32_t, Made> made_;  ///< by the description of the master
  std::string renumbered_;         ///< for a person
};

}  // namespace rfork::loader
