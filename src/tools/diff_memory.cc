#include "tools/diff_memory.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <map>
#include <tuple>

#include "base/error.h"
#include "base/io.h"

namespace rfork::tools {

namespace {

using image::DataRun;
using image::Mapping;
using image::Object;

constexpr uint64_t kPage = 4096;
constexpr size_t kChunk = 256u << 10;

/// The carried bytes of one target, where they lie in the file, by address.
class Pages {
 public:
  Pages(const ImageFile& file, DataRun::Target target, uint32_t owner) : fd_(file.fd) {
    uint64_t offset = file.data_offset;
    for (const DataRun& run : file.metadata.runs) {
      if (run.target == target && run.owner == owner) runs_.push_back({run.range, offset});
      offset += image::padded_size(run);
    }
    std::ranges::sort(runs_, {}, [](const Run& run) { return run.range.start; });
  }

  /// Whether `address` is carried, and up to where that is so.
  std::pair<bool, uint64_t> at(uint64_t address) const {
    const auto next = find(address);
    if (next == runs_.end()) return {false, UINT64_MAX};
    const bool inside = next->range.contains(address);
    return {inside, inside ? next->range.end : next->range.start};
  }

  void read(uint64_t address, std::span<std::byte> buffer) const {
    const auto run = find(address);
    uint64_t offset = run->offset + (address - run->range.start);
    while (!buffer.empty()) {
      const ssize_t n = ::pread(fd_, buffer.data(), buffer.size(), static_cast<off_t>(offset));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) throw_errno("read", "the image");
      if (n == 0) throw Refusal(Failure::bad_image, "the image is cut in its page data");
      buffer = buffer.subspan(static_cast<size_t>(n));
      offset += static_cast<uint64_t>(n);
    }
  }

  uint64_t carried_in(const Range& where) const {
    uint64_t pages = 0;
    for (auto run = find(where.start); run != runs_.end() && run->range.start < where.end; ++run) {
      const uint64_t start = std::max(run->range.start, where.start);
      pages += (std::min(run->range.end, where.end) - start + kPage - 1) / kPage;
    }
    return pages;
  }

 private:
  struct Run {
    Range range;
    uint64_t offset = 0;
  };
  std::vector<Run>::const_iterator find(uint64_t address) const {
    return std::ranges::upper_bound(runs_, address, {},
                                    [](const Run& run) { return run.range.end; });
  }

  int fd_;
  std::vector<Run> runs_;
};

class Comparison {
 public:
  Comparison(const Pages& before, const Pages& after) : before_(before), after_(after) {}

  /// Pages in `where` that differ. What only one side carries is compared with zeros when
  /// `else_zero`: the other side's page is one, or was never touched. Else it is a file's.
  uint64_t differ(const Range& where, bool else_zero) {
    uint64_t pages = 0;
    for (uint64_t at = where.start; at < where.end;) {
      const auto [in_before, before_end] = before_.at(at);
      const auto [in_after, after_end] = after_.at(at);
      uint64_t end = std::min({where.end, before_end, after_end});
      if (in_before || in_after) {
        end = std::min<uint64_t>(end, at + kChunk);
        const auto size = static_cast<size_t>(end - at);
        fill(before_, in_before, at, std::span(old_).first(size));
        fill(after_, in_after, at, std::span(fresh_).first(size));
        pages += in_before != in_after && !else_zero ? (size + kPage - 1) / kPage : count(size);
      }
      at = end;
    }
    return pages;
  }

 private:
  static void fill(const Pages& pages, bool carried, uint64_t at, std::span<std::byte> buffer) {
    if (carried) return pages.read(at, buffer);
    std::ranges::fill(buffer, std::byte{});
  }
  uint64_t count(size_t size) const {
    uint64_t pages = 0;
    for (size_t at = 0; at < size; at += kPage) {
      pages += std::memcmp(&old_[at], &fresh_[at], std::min<size_t>(kPage, size - at)) != 0 ? 1 : 0;
    }
    return pages;
  }

  const Pages& before_;
  const Pages& after_;
  Bytes old_ = Bytes(kChunk);
  Bytes fresh_ = Bytes(kChunk);
};

bool same_state(const Mapping& a, const Mapping& b) {
  const auto state = [](const Mapping& m) {
    return std::tie(m.range.end, m.protection, m.shared, m.grows_down, m.no_reserve,
                    m.huge_page_size, m.advice, m.kind, m.name, m.may_write);
  };
  return state(a) == state(b);
}

}  // namespace

std::vector<MemoryChange> compare_memory(const ImageFile& before, const ImageFile& after) {
  using Kind = MemoryChange::Kind;
  const Pages old_pages(before, DataRun::Target::memory, 0);
  const Pages fresh_pages(after, DataRun::Target::memory, 0);
  Comparison comparison(old_pages, fresh_pages);
  const auto& old = before.metadata.snapshot.processes.at(0).mappings;
  const auto& fresh = after.metadata.snapshot.processes.at(0).mappings;
  std::vector<MemoryChange> changes;
  for (auto a = old.begin(), b = fresh.begin(); a != old.end() || b != fresh.end();) {
    if (b == fresh.end() || (a != old.end() && a->range.start < b->range.start)) {
      changes.push_back({Kind::went, &*a, nullptr, old_pages.carried_in(a->range)});
      ++a;
    } else if (a == old.end() || b->range.start < a->range.start) {
      changes.push_back({Kind::came, nullptr, &*b, fresh_pages.carried_in(b->range)});
      ++b;
    } else {
      const Range both{b->range.start, std::min(a->range.end, b->range.end)};
      const bool anonymous = b->kind == Mapping::Kind::anonymous;
      const uint64_t pages = comparison.differ(both, anonymous);
      if (pages != 0 || !same_state(*a, *b)) changes.push_back({Kind::changed, &*a, &*b, pages});
      ++a;
      ++b;
    }
  }
  return changes;
}

std::vector<ObjectChange> compare_objects(const ImageFile& before, const ImageFile& after) {
  using Kind = MemoryChange::Kind;
  // Ids are of one capture only; of several of one name the order tells which is which.
  using Key = std::tuple<Object::Kind, std::string, size_t>;
  const auto by_name = [](const ImageFile& file) {
    std::map<Key, const Object*> named;
    for (const Object& object : file.metadata.snapshot.objects) {
      size_t number = 0;
      while (named.contains({object.kind, object.name, number})) ++number;
      named[{object.kind, object.name, number}] = &object;
    }
    return named;
  };
  const auto old = by_name(before), fresh = by_name(after);
  std::vector<ObjectChange> changes;
  for (const auto& [key, object] : old) {
    const Pages old_pages(before, DataRun::Target::object, object->id);
    const auto found = fresh.find(key);
    if (found == fresh.end()) {
      changes.push_back({Kind::went, object, nullptr, old_pages.carried_in({0, object->size})});
      continue;
    }
    const Pages fresh_pages(after, DataRun::Target::object, found->second->id);
    const uint64_t end = std::max(object->size, found->second->size);
    const uint64_t pages = Comparison(old_pages, fresh_pages).differ({0, end}, true);
    const bool same = object->size == found->second->size && object->seals == found->second->seals;
    if (pages != 0 || !same) changes.push_back({Kind::changed, object, found->second, pages});
  }
  for (const auto& [key, object] : fresh) {
    if (old.contains(key)) continue;
    const Pages pages(after, DataRun::Target::object, object->id);
    changes.push_back({Kind::came, nullptr, object, pages.carried_in({0, object->size})});
  }
  return changes;
}

}  // namespace rfork::tools
