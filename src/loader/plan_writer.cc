#include "loader/plan_writer.h"

#include <fmt/format.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <stdexcept>

#include "base/error.h"
#include "loader/stub_image.h"

namespace rfork::loader {

using plan::Op;
using plan::OpKind;
using plan::Rule;

namespace {

constexpr uint64_t kOpsOffset = 4096;

std::string words_of_step(int64_t step) {
  switch (step) {
    case plan::kStepNamespaces:
      return "make namespaces for the child";
    case plan::kStepClone:
      return "clone3 of the child";
    case plan::kStepDescriptors:
      return "place the child's descriptors";
    case plan::kStepExec:
      return "execveat of the stub";
    case plan::kStepMapPlan:
      return "mmap of the plan";
    case plan::kStepMapText:
      return "mmap of the stub's text";
    case plan::kStepMapRing:
      return "mmap of the ring";
    case plan::kStepMapStacks:
      return "mmap of the stub's stacks";
    case plan::kStepPark:
      return "mremap of the vDSO";
    case plan::kStepUnmap:
      return "munmap of the stub's own mappings";
    case plan::kStepTimeOffsets:
      return "write /proc/self/timens_offsets";
    default:
      return fmt::format("step {}", step);
  }
}

/// For operations that are too many to keep a sentence for each.
std::string words_of_op(const Op& op) {
  const uint64_t* a = op.arguments;
  switch (op.kind) {
    case OpKind::data_to_memory:
      return fmt::format("fill {:#x}-{:#x}", a[0], a[0] + a[1]);
    case OpKind::data_to_file:
      return fmt::format("write {} bytes at offset {}", a[2], a[1]);
    case OpKind::data_skip:
      return "skip page data";
    case OpKind::copy:
      return fmt::format("write {} bytes at {:#x}", a[2], a[0]);
    default:
      return fmt::format("operation of kind {}", static_cast<int>(op.kind));
  }
}

}  // namespace

int HelperFds::hand(int fd) {
  sources.push_back(fd);
  return base + static_cast<int>(sources.size()) - 1;
}

PlanWriter::PlanWriter(const Hole& hole, uint64_t max_ops)
    : hole_(hole), file_(make_memfd("rfork-plan")), max_ops_(max_ops) {
  const auto stub = stub_image();
  if (::ftruncate(file_.get(), static_cast<off_t>(hole.plan_size + hole.text_size)) < 0) {
    throw_errno("ftruncate", "rfork-plan");
  }
  if (::pwrite(file_.get(), stub.data(), stub.size(), static_cast<off_t>(hole.plan_size)) !=
      static_cast<ssize_t>(stub.size())) {
    throw_errno("pwrite", "rfork-plan");
  }
  void* memory =
      ::mmap(nullptr, hole.plan_size, PROT_READ | PROT_WRITE, MAP_SHARED, file_.get(), 0);
  if (memory == MAP_FAILED) throw_errno("mmap", "rfork-plan");
  memory_ = static_cast<std::byte*>(memory);
  data_at_ = kOpsOffset + max_ops * sizeof(Op);
  header().ops = hole.start + kOpsOffset;
}

PlanWriter::~PlanWriter() {
  ::munmap(memory_, hole_.plan_size);
}

uint64_t PlanWriter::add(const Op& op, std::string words) {
  if (words_.size() >= max_ops_) throw std::logic_error("the plan has no room for an operation");
  const uint64_t index = words_.size();
  words_.push_back(std::move(words));
  at(index) = op;
  return index;
}

Op& PlanWriter::at(uint64_t index) {
  return reinterpret_cast<Op*>(memory_ + kOpsOffset)[index];
}

namespace {

Op make_op(OpKind kind, Rule rule, long number, std::initializer_list<uint64_t> arguments,
           int64_t expected) {
  Op op{};
  op.kind = kind;
  op.rule = rule;
  op.number = static_cast<uint64_t>(number);
  std::copy(arguments.begin(), arguments.end(), op.arguments);
  op.expected = expected;
  return op;
}

}  // namespace

uint64_t PlanWriter::call(long number, std::initializer_list<uint64_t> arguments, std::string words,
                          int64_t expected) {
  return add(make_op(OpKind::syscall, Rule::exact, number, arguments, expected), std::move(words));
}

uint64_t PlanWriter::try_call(long number, std::initializer_list<uint64_t> arguments,
                              std::string words) {
  return add(make_op(OpKind::syscall, Rule::ignore, number, arguments, 0), std::move(words));
}

uint64_t PlanWriter::op(OpKind kind, std::initializer_list<uint64_t> arguments, std::string words) {
  return add(make_op(kind, Rule::exact, 0, arguments, 0), std::move(words));
}

uint64_t PlanWriter::data(std::span<const std::byte> bytes, uint64_t alignment) {
  const uint64_t at = (data_at_ + alignment - 1) & ~(alignment - 1);
  if (at + bytes.size() > hole_.plan_size) throw std::logic_error("the plan has no room for data");
  std::ranges::copy(bytes, memory_ + at);
  data_at_ = at + bytes.size();
  return hole_.start + at;
}

uint64_t PlanWriter::text(std::string_view text) {
  const std::string terminated(text);
  return data(std::as_bytes(std::span(terminated.c_str(), terminated.size() + 1)));
}

std::string PlanWriter::words(int64_t index) const {
  if (index < 0) return words_of_step(index);
  if (static_cast<size_t>(index) >= words_.size()) return fmt::format("operation {}", index);
  const std::string& words = words_[static_cast<size_t>(index)];
  if (!words.empty()) return words;
  return words_of_op(reinterpret_cast<const Op*>(memory_ + kOpsOffset)[index]);
}

}  // namespace rfork::loader
