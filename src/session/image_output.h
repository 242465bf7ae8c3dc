// Where an image goes on its way to another host: into DATA frames, or into a spool.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <optional>
#include <span>
#include <string>

#include "session/destination.h"
#include "session/spool.h"

namespace rfork::session {

class ImageOutput {
 public:
  /// Borrows `there`. An empty `spool` is none: through the connection. Else `owner` is the user of
  /// the process; call it before the offer, which says that the file is there. Throws as SpoolFile.
  ImageOutput(Destination& there, const std::string& spool, uid_t owner);

  /// The next bytes, in any split. Throws as Destination::send() and SpoolFile::write().
  void write(std::span<const std::byte> data);
  /// After the last byte: Destination::finish_and_wait_ready() may say that it is complete. The
  /// spooled file lives as long as this object.
  void finish();

 private:
  Destination& there_;
  std::optional<SpoolFile> file_;
};

}  // namespace rfork::session
