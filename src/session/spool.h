// A spool: a directory that both hosts see, through which images go in place of the connection.
//
// The client makes a file there before it offers the process, writes the image, closes the file and
// then says so; the daemon's worker opens it only then. That is all that NFS promises
// (close-to-open consistency), so there are no locks, and no file is ever renamed. A file's name
// comes from the move's id, so a client can't name any other file. Both ends remove it, whichever
// is left; docs/protocol.md has the rest.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "base/unique_fd.h"
#include "session/user_policy.h"

namespace rfork::session {

/// The file of a move, in whatever directory: `rfork-` and its id and `.spool`.
std::string spool_name(std::string_view move_id);

/// Throws Refusal(usage) unless `directory` is one.
void check_spool(const std::string& directory);

/// The client's end: a file that is being written.
class SpoolFile {
 public:
  /// Creates it, empty and with mode 0600. `owner` is the user of the process that will be in it,
  /// and gets the file if this one is root. Removes what crashes have left there, if it is older
  /// than a day. Throws Refusal(usage) when nothing can be created in `directory`.
  SpoolFile(const std::string& directory, std::string_view move_id, uid_t owner);
  ~SpoolFile();  ///< removes it, if it is still there
  SpoolFile(const SpoolFile&) = delete;
  SpoolFile& operator=(const SpoolFile&) = delete;

  /// Throws Refusal when the disk is full.
  void write(std::span<const std::byte> data);
  /// Complete, on disk and closed: other hosts may open it. Throws as write().
  void finish();

 private:
  [[noreturn]] void refuse_to_write() const;

  std::string directory_;
  std::string path_;
  UniqueFd fd_;
  uint64_t size_ = 0;
};

/// The worker's end: a file that somebody else writes.
///
/// It is looked at with the rights of the user that the child will have, and must be that user's:
/// a root's daemon can't be made to read or remove what its client may not. In a directory that no
/// other user can enter, root uses its own rights.
class SpooledImage {
 public:
  /// Looks whether the file is there, though nothing may be in it yet. An empty `directory` is a
  /// daemon without spool. Throws Refusal(destination_refused).
  SpooledImage(std::string directory, std::string_view move_id, ChosenUser user);
  ~SpooledImage();  ///< removes it, if it is still there and was adopted
  SpooledImage(const SpooledImage&) = delete;
  SpooledImage& operator=(const SpooledImage&) = delete;

  /// The move is this worker's alone, and so is the file.
  void adopt() { adopted_ = true; }
  /// Opens it, now that its writer has closed it, and takes its name away, so that it is gone
  /// however this process ends. Throws Refusal(destination_refused) unless it is the file that was
  /// there before and has `size` bytes.
  UniqueFd take(uint64_t size);

 private:
  UniqueFd open_checked(struct stat& status) const;
  void remove() const;

  std::string directory_;
  std::string path_;
  ChosenUser user_;
  bool own_rights_ = false;
  dev_t device_ = 0;
  ino_t inode_ = 0;
  bool adopted_ = false;
};

}  // namespace rfork::session
