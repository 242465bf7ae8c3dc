// The SysV segments that a process has attached: what the kernel says of them, and who else has
// them.
#pragma once

#include <optional>
#include <vector>

#include "image/sysv_table.h"
#include "tracer/inventory.h"

namespace rfork::tracer {

class AttachedSegments {
 public:
  AttachedSegments(Inventory& inventory, const InventoryInput& input);

  /// Whether it shows a segment. Their device is that of memfds; their inodes are ids.
  bool is_segment(const MapsLine& line) const;
  /// Adds the mapping with its Object, or why it can't be carried.
  void add(const MapsLine& line, image::Mapping mapping);
  /// When all mappings are there: who else has attached them, and what none of the mappings shows.
  void finish();

 private:
  void read_table();
  std::optional<image::SysvTableLine> find(const MapsLine& line);
  void refuse_shared(const image::Object& object);
  void read_rest(const image::Object& object);
  uint64_t attachments(pid_t pid, int32_t id) const;

  Inventory& inventory_;
  const InventoryInput& input_;
  bool has_table_ = false;
  std::vector<image::SysvTableLine> table_;
};

}  // namespace rfork::tracer
