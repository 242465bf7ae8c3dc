// User and group ids, supplementary groups and capabilities. As root with groups of its own, a saved
// group id, a capability dropped for good and one switched off; as an ordinary user what it was given.
#include <grp.h>
#include <linux/capability.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "target.h"

namespace {

std::string identity() {
  std::string all;
  for (const char* key : {"Uid:", "Gid:", "Groups:", "CapInh:", "CapPrm:", "CapEff:", "CapBnd:", "CapAmb:"}) {
    all += target::status_line(key) + "\n";
  }
  return all;
}

void switch_off(int capability) {
  __user_cap_header_struct header = {_LINUX_CAPABILITY_VERSION_3, 0};
  __user_cap_data_struct data[2];
  MUST(syscall(SYS_capget, &header, data));
  data[capability / 32].effective &= ~(1u << capability % 32);
  MUST(syscall(SYS_capset, &header, data));
}

}  // namespace

int main(int argc, char** argv) {
  target::begin(argc, argv);
  if (geteuid() == 0) {
    const gid_t groups[] = {5, 77, 4000};
    MUST(setgroups(3, groups));
    MUST(setresgid(0, 0, 12));
    MUST(prctl(PR_CAPBSET_DROP, CAP_SYS_TIME, 0, 0, 0));
    switch_off(CAP_NET_RAW);
  }
  const std::string before = identity();

  target::ready();
  target::wait_for_go();

  EXPECT_TEXT(identity(), before);
  target::finish();
}
