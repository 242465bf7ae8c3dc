// Processes made by hand: a page of machine code, a stack, registers. What the loader is tested
// with where no process needs to be captured.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "image/format.h"
#include "image/host.h"
#include "loader/restore.h"

namespace tiny {

inline constexpr uint64_t kCode = 0x400000;
inline constexpr uint64_t kData = 0x600000;  // one page, readable and writable
inline constexpr uint64_t kStackEnd = 0x7ffe00010000;
inline constexpr uint64_t kStackSize = 0x10000;

/// Machine code, a few instructions at a time.
class Code {
 public:
  Code& bytes(std::initializer_list<int> values);
  Code& system_call(uint32_t number, std::initializer_list<uint64_t> arguments = {});
  Code& exit_group(uint32_t status) { return system_call(231, {status}); }
  /// exit_group of the 32 bits at `address`.
  Code& exit_group_with(uint64_t address);
  /// lock incl (address)
  Code& increment(uint64_t address);
  /// Spins until the 32 bits at `address` are `value`.
  Code& await(uint64_t address, uint32_t value);
  /// Calls `function` with rdi = 0; the result is in rax.
  Code& call(uint64_t function);
  uint64_t here() const { return kCode + bytes_.size(); }
  const rfork::Bytes& get() const { return bytes_; }

 private:
  Code& move(int register_number, uint64_t value);
  rfork::Bytes bytes_;
};

/// A snapshot of one process and the page data of its image.
struct Program {
  rfork::image::Snapshot snapshot;
  std::vector<rfork::image::DataRun> runs;
  std::map<uint64_t, rfork::Bytes> memory;   ///< page data by address, whole pages
  std::map<uint32_t, rfork::Bytes> objects;  ///< by object id, from offset 0

  rfork::image::Process& process() { return snapshot.processes[0]; }
  rfork::image::Mapping& map(uint64_t start, uint64_t size, uint32_t protection);
  /// Bytes at `address`, which lies in a mapping; padded to a page.
  void fill(uint64_t address, rfork::Bytes bytes);
  rfork::image::Thread& thread(int32_t tid, uint64_t rip, uint64_t rsp);
  /// A description on descriptor `fd`.
  rfork::image::Description& describe(int fd, rfork::image::Description::Kind kind);
};

/// `code` at kCode, a page at kData, a stack, one thread, descriptors 0 to 2 as stdio.
Program program(const Code& code);
/// Adds this kernel's vDSO and vvar at an address of their own; gives the address of the vDSO.
uint64_t add_vdso(Program& program, const rfork::Bytes& contents);

/// What became of it.
struct Outcome {
  rfork::loader::ChildEnd end;
  std::string output;  ///< descriptor 1
  pid_t pid = 0, inner_pid = 0;
  std::vector<std::string> warnings;
};

/// A restore that is fed and ready.
class Run {
 public:
  Run(Program program, rfork::loader::Options options = {});
  ~Run();
  rfork::loader::Restore& restore() { return *restore_; }
  pid_t pid() const { return pid_; }
  void go() { restore_->go(); }
  Outcome wait();

 private:
  Program program_;
  rfork::image::Metadata metadata_;
  int output_ = -1;
  pid_t pid_ = 0;
  std::unique_ptr<rfork::loader::Restore> restore_;
};

/// All of it, to the end.
Outcome run(Program program, rfork::loader::Options options = {});
/// An id that no process has at the moment.
int32_t free_pid();

}  // namespace tiny
