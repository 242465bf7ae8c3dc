#include "session/child_reports.h"

#include "session/messages.h"

namespace rfork::session {

void ChildReports::changed(int wait_status) {
  line_.report(PacketType::changed, encode(ChangeReport{id_, wait_status}));
}

void ChildReports::signalled(int signal) {
  line_.report(PacketType::signalled, encode(SignalReport{id_, signal}));
}

void ChildReports::lost(const std::string& why) {
  line_.report(PacketType::lost, encode(LostReport{id_, why}));
}

void ChildReports::used(const rusage& usage) {
  line_.report(PacketType::used, encode(UseReport{id_, final_use(usage)}));
}

}  // namespace rfork::session
