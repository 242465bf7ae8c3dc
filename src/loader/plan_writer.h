// Writes the plan: operations with a sentence each, and data that they point at.
//
// The plan's file is mapped shared here and, later, in the child's hole, so operations can be added
// after the stub has begun: what depends on the page data (the vDSO) is decided then.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/io.h"
#include "base/unique_fd.h"
#include "loader/stub/plan.h"

namespace rfork::loader {

/// The hole in the child and what lies where in it. All addresses are the child's.
struct Hole {
  uint64_t start = 0, end = 0;
  uint64_t plan_size = 0;  ///< at `start`
  uint64_t text = 0, text_size = 0;
  uint64_t ring = 0;
  uint64_t parked = 0;  ///< room for the kernel's special mappings
  uint64_t stacks = 0, stacks_size = 0;
};

/// Fixed part of the child's descriptor table, above every number that the image wants.
struct HelperFds {
  int base = 0;  ///< number of the first helper descriptor in the child
  std::vector<int> sources;

  /// Hands the descriptor `fd` of this process over (borrowed until the child is forked); gives its
  /// number in the child.
  int hand(int fd);
};

class PlanWriter {
 public:
  /// `capacity` bytes for operations and as many operations as `max_ops`.
  PlanWriter(const Hole& hole, uint64_t max_ops);
  ~PlanWriter();
  PlanWriter(const PlanWriter&) = delete;
  PlanWriter& operator=(const PlanWriter&) = delete;

  plan::Header& header() { return *reinterpret_cast<plan::Header*>(memory_); }
  /// The file: plan_size bytes that both sides map, then the stub's text.
  int file() const { return file_.get(); }
  /// Index of the next operation.
  uint64_t next() const { return words_.size(); }

  uint64_t add(const plan::Op& op, std::string words);
  /// A system call that must give `expected`.
  uint64_t call(long number, std::initializer_list<uint64_t> arguments, std::string words,
                int64_t expected = 0);
  /// A system call whose failure doesn't matter.
  uint64_t try_call(long number, std::initializer_list<uint64_t> arguments, std::string words);
  uint64_t op(plan::OpKind kind, std::initializer_list<uint64_t> arguments, std::string words);
  plan::Op& at(uint64_t index);

  /// Copies `bytes` into the data area; gives their address in the child.
  uint64_t data(std::span<const std::byte> bytes, uint64_t alignment = 8);
  uint64_t text(std::string_view zero_terminated);
  template <typename T>
  uint64_t value(const T& object) {
    return data(std::as_bytes(std::span(&object, 1)), alignof(T) < 8 ? 8 : alignof(T));
  }

  /// What lies at `address` of the child in the data area, here.
  std::byte* local(uint64_t address) { return memory_ + (address - hole_.start); }

  /// What operation `index` does, for a failure report.
  std::string words(int64_t index) const;

 private:
  Hole hole_;
  UniqueFd file_;
  std::byte* memory_ = nullptr;
  uint64_t max_ops_;
  uint64_t data_at_;
  std::vector<std::string> words_;
};

}  // namespace rfork::loader
