#include "image/json.h"

#include <catch2/catch.hpp>

#include "image_samples.h"

using namespace rfork::image;
using Catch::Matchers::Contains;
using nlohmann::json;

namespace {

std::string why_not(const json& value) {
  try {
    value.get<Object>();
  } catch (const FieldError& error) {
    return error.what();
  }
  return "taken";
}

void parse(std::initializer_list<int> bytes) {
  rfork::Bytes cbor;
  for (const int byte : bytes) cbor.push_back(static_cast<std::byte>(byte));
  parse_cbor(cbor);
}

}  // namespace

TEST_CASE("every struct survives JSON and CBOR") {
  const Snapshot snapshot = samples::rich_snapshot();
  const std::vector<uint8_t> cbor = json::to_cbor(json(snapshot));
  const json value = parse_cbor(std::as_bytes(std::span(cbor)));
  CHECK(json(value.get<Snapshot>()) == json(snapshot));
  CHECK(json(snapshot.files).get<std::vector<File>>() == snapshot.files);
  const Needs needs{snapshot.host, {"mm_map"}};
  CHECK(json(json(needs).get<Needs>()) == json(needs));
  const DataRun run{DataRun::Target::object, 3, {4096, 8192}};
  CHECK(json(run).get<DataRun>() == run);
}

TEST_CASE("a value that isn't the struct says which field is wrong") {
  const json good = samples::rich_snapshot().objects[2];
  CHECK(why_not(good) == "taken");
  const auto with = [&](const char* field, const json& value) {
    json bad = good;
    bad[field] = value;
    return why_not(bad);
  };
  CHECK_THAT(with("id", -1), Contains("id: is out of range"));
  CHECK_THAT(with("id", 1ull << 32), Contains("id: is out of range"));
  CHECK_THAT(with("id", 1.0), Contains("id: is no integer"));
  CHECK_THAT(with("id", "1"), Contains("id: is no integer"));
  CHECK_THAT(with("kind", "teapot"), Contains("unknown value 'teapot'"));
  CHECK_THAT(with("kind", 1), Contains("kind: is no word"));
  CHECK_THAT(with("name", 1), Contains("name: is no string"));
  json missing = good;
  missing.erase("seals");
  CHECK_THAT(why_not(missing), Contains("seals: is missing"));
  CHECK_THAT(why_not(json::array()), Contains("is no object"));
  CHECK(with("smell", "rose") == "smell: is unknown here");
  json outer = samples::rich_snapshot().processes[0];
  outer["credentials"]["charm"] = 17;
  CHECK_THROWS_WITH(outer.get<Process>(), "credentials.charm: is unknown here");
  json thread = samples::rich_snapshot().processes[0].threads[1];
  thread["pending"][0] = json::binary({1, 2, 3});
  CHECK_THROWS_WITH(thread.get<Thread>(), Contains("pending.0: is no siginfo"));
  json mapping = samples::rich_snapshot().processes[0].mappings[0];
  mapping["range"] = {8192, 4096};
  CHECK_THROWS_WITH(mapping.get<Mapping>(), Contains("ends before it starts"));
}

TEST_CASE("hostile CBOR is refused before it costs memory or stack") {
  CHECK_NOTHROW(parse({0x82, 0x01, 0x61, 'a'}));
  CHECK_THROWS_AS(parse({}), FieldError);
  CHECK_THROWS_AS(parse({0x82, 0x01}), FieldError);  // too short
  CHECK_THROWS_AS(parse({0x9b, 255, 255, 255, 255, 255, 255, 255, 255}), FieldError);
  CHECK_THROWS_AS(parse({0x7f, 0x7f, 0x7f, 0xff}), FieldError);  // indefinite
  CHECK_THROWS_AS(parse({0xc0, 0x01}), FieldError);              // tag
  CHECK_THROWS_AS(parse({0x01, 0x01}), FieldError);              // something follows
  CHECK_THROWS_AS(parse({0xa1, 0x01, 0x01}), FieldError);        // key is no string
  CHECK_THROWS_AS(parse_cbor(rfork::Bytes(1u << 20, std::byte{0x81})), FieldError);  // deep
}

TEST_CASE("byte strings print as hexadecimal") {
  json value = {{"bytes", json::binary({0xde, 0xad})}, {"list", {json::binary({1})}}};
  CHECK(printable(value).dump() == R"({"bytes":"dead","list":["01"]})");
}
