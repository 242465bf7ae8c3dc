// Files that are made to see whether a watch reports them.
#pragma once

#include <fcntl.h>
#include <unistd.h>

#include <string>

#include "target.h"

/// One that no copy of the target has made yet.
inline std::string fresh_name() {
  unsigned random = 0;
  const int fd = MUST(open("/dev/urandom", O_RDONLY));
  EXPECT_EQ(read(fd, &random, sizeof random), sizeof random);
  close(fd);
  return "made-" + std::to_string(random);
}

inline void create(const std::string& file) {
  const int fd = MUST(open(file.c_str(), O_WRONLY | O_CREAT, 0600));
  EXPECT_EQ(write(fd, "x", 1), 1);
  close(fd);
}
