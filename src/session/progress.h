// How far a long transfer is, on one line of the terminal.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>

namespace rfork::session {

/// Draws on stderr, only when that is a terminal and the work lasts: nothing in the first half
/// second. The line is wiped when it goes.
class Progress {
 public:
  Progress(std::string what, uint64_t total_bytes);
  ~Progress();
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void add(uint64_t bytes);

 private:
  void draw();

  std::string what_;
  uint64_t total_;
  uint64_t done_ = 0;
  bool terminal_;
  bool drawn_ = false;
  std::chrono::steady_clock::time_point started_;
  std::chrono::steady_clock::time_point next_;
};

}  // namespace rfork::session
