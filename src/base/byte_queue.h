// Bytes that come at one end and leave at the other, in one piece of memory.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <memory>
#include <span>

namespace rfork {

/// Unlike a vector it doesn't clear what is about to be written, and what leaves costs nothing:
/// each byte is moved once at most on average.
class ByteQueue {
 public:
  size_t size() const { return end_ - begin_; }
  bool empty() const { return begin_ == end_; }
  std::span<const std::byte> bytes() const { return {memory_.get() + begin_, size()}; }

  /// Where the next bytes go, `size` of them at least; push() makes them part of the queue.
  std::span<std::byte> room(size_t size) {
    if (capacity_ - end_ < size) make_room(size);
    return {memory_.get() + end_, capacity_ - end_};
  }
  void push(size_t size) { end_ += size; }
  void append(std::span<const std::byte> bytes) {
    if (bytes.empty()) return;
    std::memcpy(room(bytes.size()).data(), bytes.data(), bytes.size());
    push(bytes.size());
  }

  void pop(size_t size) {
    begin_ += size;
    if (begin_ == end_) begin_ = end_ = 0;
  }
  /// Empties it and frees its memory.
  void reset() { *this = ByteQueue(); }

  ByteQueue() = default;
  ByteQueue(const ByteQueue&) = delete;
  ByteQueue& operator=(const ByteQueue&) = delete;
  ByteQueue(ByteQueue&& other) noexcept { *this = std::move(other); }
  ByteQueue& operator=(ByteQueue&& other) noexcept {
    std::swap(memory_, other.memory_);
    std::swap(capacity_, other.capacity_);
    std::swap(begin_, other.begin_);
    std::swap(end_, other.end_);
    return *this;
  }

 private:
  void make_room(size_t more) {
    const size_t used = size();
    // To its own front only when as much has left as stays.
    if (begin_ >= used && used + more <= capacity_) {
      std::memcpy(memory_.get(), memory_.get() + begin_, used);
    } else {
      const size_t capacity = std::max(2 * capacity_, used + more);
      auto memory = std::make_unique_for_overwrite<std::byte[]>(capacity);
      if (used > 0) std::memcpy(memory.get(), memory_.get() + begin_, used);
      memory_ = std::move(memory);
      capacity_ = capacity;
    }
    begin_ = 0;
    end_ = used;
  }

  std::unique_ptr<std::byte[]> memory_;
  size_t capacity_ = 0;
  size_t begin_ = 0, end_ = 0;
};

}  // namespace rfork
