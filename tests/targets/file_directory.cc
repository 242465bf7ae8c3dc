// A directory that is being read goes on where it was: no entry twice, none left out. And *at() calls below
// an open directory.
#include <dirent.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <set>

#include "target.h"

int main(int argc, char** argv) {
  target::begin(argc, argv);
  const std::string folder = target::path("directory");
  if (mkdir(folder.c_str(), 0700) != 0) EXPECT_EQ(errno, EEXIST);
  const int count = 3000;  // more than one getdents() gives
  const int base = MUST(open(folder.c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC));
  for (int i = 0; i < count; ++i) {
    const std::string name = "entry-with-a-name-of-some-length-" + std::to_string(i);
    MUST(close(MUST(openat(base, name.c_str(), O_WRONLY | O_CREAT | O_CLOEXEC, 0600))));
  }
  DIR* stream = opendir(folder.c_str());
  EXPECT(stream != nullptr);
  std::set<std::string> seen;
  for (int i = 0; i < 1500; ++i) {
    const dirent* entry = readdir(stream);
    EXPECT(entry != nullptr);
    EXPECT(seen.insert(entry->d_name).second);
  }

  target::ready();
  target::wait_for_go();

  while (const dirent* entry = readdir(stream)) {
    if (!seen.insert(entry->d_name).second) target::fail("%s was seen twice", entry->d_name);
  }
  EXPECT_EQ(seen.size(), count + 2);
  MUST(faccessat(base, "entry-with-a-name-of-some-length-7", F_OK, 0));
  target::finish();
}
