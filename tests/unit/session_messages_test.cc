// Messages: what is encoded comes back; what is cut, too long, altered or deep is refused by name.
#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>
#include <string>

#include "base/error.h"
#include "session/messages.h"

using namespace rfork;
using namespace rfork::session;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

OfferMessage sample_offer() {
  OfferMessage message;
  message.move_id = std::string(32, 'a');
  Offer& offer = message.offer;
  offer.move = true;
  offer.pid_mode = loader::PidMode::fresh;
  offer.ignore_cpu = true;
  offer.spooled = true;
  offer.needs.host.name = "origin";
  offer.needs.host.page_size = 4096;
  offer.needs.host.cpu_features = {"avx2", "sse"};
  offer.needs.abilities = {"rseq"};
  offer.pid = 42;
  offer.tids = {42, 43};
  offer.name = "na\xffme";  // the kernel's bytes
  offer.uid = 4'000'000'000;
  offer.user = "ada";
  offer.resident_bytes = 1ull << 60;
  image::File file;
  file.path = "/usr/bin/python3";
  file.size = 7;
  file.build_id = "ab";
  offer.mapped_files = {file, file};
  offer.open_files = {file};
  offer.any_address = true;
  offer.leases = true;
  NamedSocket socket;
  socket.fd = 7;
  socket.family = 1;
  socket.name = std::string("\1\0\0\xff", 4);  // the kernel's bytes
  socket.has_path = true;
  socket.options = {"SO_REUSEADDR"};
  socket.values = {std::string("\1\0\0\0", 4)};
  offer.sockets = {socket};
  return message;
}

Bytes to_bytes(const json& value) {
  const std::vector<uint8_t> cbor = json::to_cbor(value);
  const auto bytes = std::as_bytes(std::span(cbor));
  return {bytes.begin(), bytes.end()};
}

json to_json(const Bytes& bytes) {
  return json::from_cbor(reinterpret_cast<const uint8_t*>(bytes.data()),
                         reinterpret_cast<const uint8_t*>(bytes.data()) + bytes.size());
}

template <typename Message>
std::string refusal_of(const Bytes& body) {
  try {
    (void)decode<Message>(body);
  } catch (const Refusal& refusal) {
    CHECK(refusal.failure() == Failure::connection_lost);
    return refusal.what();
  }
  return "";
}

}  // namespace

TEST_CASE("an offer comes back as it was") {
  const OfferMessage sent = sample_offer();
  const auto got = decode<OfferMessage>(encode(sent));
  CHECK(got.move_id == sent.move_id);
  CHECK(got.offer.move);
  CHECK(got.offer.pid_mode == loader::PidMode::fresh);
  CHECK(got.offer.ignore_cpu);
  CHECK_FALSE(got.offer.overwrite_files);
  CHECK(got.offer.spooled);
  CHECK(got.offer.needs.host.cpu_features == sent.offer.needs.host.cpu_features);
  CHECK(got.offer.needs.abilities == sent.offer.needs.abilities);
  CHECK(got.offer.tids == sent.offer.tids);
  CHECK(got.offer.name == sent.offer.name);
  CHECK(got.offer.uid == sent.offer.uid);
  CHECK(got.offer.resident_bytes == sent.offer.resident_bytes);
  CHECK(got.offer.mapped_files == sent.offer.mapped_files);
  CHECK(got.offer.open_files == sent.offer.open_files);
  CHECK(got.offer.any_address);
  CHECK(got.offer.leases);
  REQUIRE(got.offer.sockets.size() == 1);
  CHECK(got.offer.sockets[0].name == sent.offer.sockets[0].name);
  CHECK(got.offer.sockets[0].values == sent.offer.sockets[0].values);
  CHECK(got.offer.sockets[0].has_path);
}

TEST_CASE("other messages come back as they were") {
  Judgement said;
  said.reasons = {{"why", "what to do"}};
  said.warnings = {"warning"};
  said.present_paths = {"/a"};
  said.goes_on = said.pid_kept = said.pid_namespace = said.remakes_connections = true;
  const auto judgement = decode<Judgement>(encode(said));
  REQUIRE(judgement.reasons.size() == 1);
  CHECK(judgement.reasons[0].line() == "why; what to do");
  CHECK(judgement.warnings == said.warnings);
  CHECK(judgement.present_paths == said.present_paths);
  CHECK((judgement.goes_on && judgement.pid_kept && judgement.pid_namespace));
  CHECK(judgement.remakes_connections);
  const auto answer = decode<Answer>(encode(Answer{{"/a", "/b"}, {"warning"}, true}));
  CHECK(answer.remakes_connections);
  CHECK(answer.present_paths == std::set<std::string>{"/a", "/b"});
  CHECK(answer.warnings == std::vector<std::string>{"warning"});
  const auto refused = decode<RefusedMessage>(encode(RefusedMessage{{{"what", "advice"}}}));
  CHECK(refused.reasons.at(0).line() == "what; advice");
  ChildInfo child;
  child.id = "7";
  child.state = ChildState::ended;
  child.end = {true, 11, true};
  child.since_ns = -1;
  const auto list = decode<ListPart>(encode(ListPart{{child, child}, true}));
  CHECK(list.more);
  CHECK(list.children.at(1).end.code == 11);
  CHECK(list.children.at(1).since_ns == -1);
  const auto found =
      decode<Resolution>(encode(Resolution{Resolution::State::ended, "7", 99, "ended"}));
  CHECK(found.state == Resolution::State::ended);
  CHECK(found.pid == 99);
}

TEST_CASE("an offer that is cut at any byte is refused") {
  const Bytes whole = encode(sample_offer());
  for (size_t size = 0; size < whole.size(); ++size) {
    const Bytes cut(whole.begin(), whole.begin() + static_cast<ptrdiff_t>(size));
    INFO(size);
    CHECK_THAT(refusal_of<OfferMessage>(cut), Contains("OFFER is malformed"));
  }
  Bytes longer = whole;
  longer.push_back(std::byte{0});
  CHECK_THAT(refusal_of<OfferMessage>(longer), Contains("OFFER is malformed"));
}

TEST_CASE("an offer with any byte altered is an offer or refused, nothing else") {
  const Bytes whole = encode(sample_offer());
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const int bit : {0, 3, 5, 7}) {
      Bytes altered = whole;
      altered[at] ^= static_cast<std::byte>(1 << bit);
      (void)refusal_of<OfferMessage>(altered);
    }
  }
}

TEST_CASE("members are judged one by one") {
  const Bytes whole = encode(sample_offer());
  const auto refused = [&](const char* member, const json& value) {
    json offer = to_json(whole);
    offer[member] = value;
    return refusal_of<OfferMessage>(to_bytes(offer));
  };
  CHECK_THAT(refused("pid", 1ll << 40), Contains("pid: out of range"));
  CHECK_THAT(refused("pid", "7"), Contains("pid: no integer"));
  CHECK_THAT(refused("uid", -1), Contains("uid: out of range"));
  CHECK_THAT(refused("move", 1), Contains("move: no boolean"));
  CHECK_THAT(refused("pid_mode", 3), Contains("pid_mode"));
  CHECK_THAT(refused("tids", json::object()), Contains("tids: no array"));
  CHECK_THAT(refused("tids", json::array({1, 2.5})), Contains("tids: no integer"));
  CHECK_THAT(refused("name", nullptr), Contains("name: no string"));
  CHECK_THAT(refused("needs", json::array()), Contains("OFFER is malformed"));
  CHECK_THAT(refused("surprise", 1), Contains("not known"));
  json offer = to_json(whole);
  offer.erase("tids");
  CHECK_THAT(refusal_of<OfferMessage>(to_bytes(offer)), Contains("tids: missing"));
  CHECK_THAT(refusal_of<Answer>(to_bytes(json::array())), Contains("ANSWER is malformed"));
}

TEST_CASE("depth and number of elements are bounded before memory is taken") {
  const Bytes deep(1u << 20, std::byte{0x81});  // arrays of one array of one array ...
  CHECK_THAT(refusal_of<Answer>(deep), Contains("too deep"));
  Bytes wide(1u << 20, std::byte{0x00});
  wide[0] = std::byte{0x9f};  // an array without an end
  CHECK_THAT(refusal_of<Answer>(wide), Contains("too many"));
  const Bytes huge = {std::byte{0x9b}, std::byte{0x7f}, std::byte{0xff}, std::byte{0xff},
                      std::byte{0xff}, std::byte{0xff}, std::byte{0xff}, std::byte{0xff},
                      std::byte{0xff}};  // an array of 2^63 elements
  CHECK_THAT(refusal_of<Answer>(huge), Contains("malformed"));
}

TEST_CASE("move ids are random and recognised") {
  const std::string id = make_move_id();
  CHECK(is_move_id(id));
  CHECK(make_move_id() != id);
  CHECK_FALSE(is_move_id(id + "a"));
  CHECK_FALSE(is_move_id(id.substr(1) + "A"));
  CHECK_FALSE(is_move_id(""));
}
