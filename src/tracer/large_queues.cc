#include "tracer/large_queues.h"

#include <fmt/format.h>

#include <algorithm>

#include "base/text.h"

namespace rfork::tracer {

namespace {

constexpr uint64_t kMostOfOne =
    256u << 20;  // a note holds twice that, small messages need as much again
constexpr uint64_t kMostOfAll = 512u << 20;  // of 1 GiB that stands before the page data

uint64_t queued_in(const image::Description& description) {
  uint64_t size = 0;
  for (const Bytes& part : description.queued) size += part.size();
  if (!description.socket) return size;
  for (const image::SocketMessage& message : description.socket->messages)
    size += message.data.size();
  if (const auto& tcp = description.socket->tcp) {
    size += tcp->sent.size() + tcp->not_sent.size() + tcp->received.size();
  }
  return size;
}

}  // namespace

void find_large_queues(Inventory& inventory) {
  uint64_t all = 0;
  for (const image::Description& description : inventory.descriptions) {
    const uint64_t size = queued_in(description);
    all += size;
    const auto descriptor =
        std::ranges::find(inventory.descriptors, description.id, &image::Descriptor::description);
    if (size <= kMostOfOne || descriptor == inventory.descriptors.end()) continue;
    inventory.obstacles.push_back(
        {fmt::format(
             "descriptor {} is {} with {} in it that nobody has read, and an image holds {}",
             descriptor->fd, description.path, human_bytes(size), human_bytes(kMostOfOne)),
         fmt::format("try again when it is read, or --drop-fd {} goes on without it",
                     descriptor->fd)});
  }
  if (all <= kMostOfAll) return;
  inventory.obstacles.push_back(
      {fmt::format("{} are queued in pipes and sockets, and an image holds {}", human_bytes(all),
                   human_bytes(kMostOfAll)),
       "try again when they are read"});
}

}  // namespace rfork::tracer
