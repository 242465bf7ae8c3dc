#include "session/image_output.h"

namespace rfork::session {

ImageOutput::ImageOutput(Destination& there, const std::string& spool, uid_t owner)
    : there_(there) {
  if (!spool.empty()) file_.emplace(spool, there.move_id(), owner);
}

void ImageOutput::write(std::span<const std::byte> data) {
  if (!file_) return there_.send(data);
  file_->write(data);
  there_.spooled(data.size());
}

void ImageOutput::finish() {
  if (file_) file_->finish();
}

}  // namespace rfork::session
