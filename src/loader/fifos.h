// FIFOs of the image: the one that has the name here, or a new one.
//
// A FIFO that the original still has open is opened again like any file, and what is in it is
// there. Else its contents are put into it.
#pragma once

#include <map>
#include <string>

#include "base/unique_fd.h"
#include "image/model.h"
#include "loader/findings.h"
#include "loader/host_files.h"

namespace rfork::loader {

class Fifos {
 public:
  Fifos(const image::Snapshot& snapshot, HostFiles& files, Findings& findings)
      : snapshot_(snapshot), files_(files), findings_(findings) {}

  /// An end, as the description has it. Empty, with a finding, when it can't be had.
  UniqueFd open(const image::Description& description);
  /// Closes what no description has.
  void let_go() { pipes_.clear(); }

 private:
  struct Pipe {
    UniqueFd own;  ///< open both ways, or for reading only; empty when it couldn't be had
    std::map<uint32_t, UniqueFd> ends;  ///< by description
  };

  void open_ends(const image::Description& first, Pipe& pipe);
  int access_to(const image::Description& first) const;
  UniqueFd make(const image::Description& first);
  UniqueFd make_removed(const image::Description& first);
  UniqueFd open_named(const image::Description& first);

  const image::Snapshot& snapshot_;
  HostFiles& files_;
  Findings& findings_;
  std::map<uint32_t, Pipe> pipes_;  ///< by the description that has the contents
};

}  // namespace rfork::loader
