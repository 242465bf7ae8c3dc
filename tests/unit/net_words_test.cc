// Addresses, key files, frame headers, prefaces: what is read before anything is trusted.
#include <sys/stat.h>
#include <unistd.h>

#include <catch2/catch.hpp>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>

#include "base/error.h"
#include "net/address.h"
#include "net/frame.h"
#include "net/key.h"
#include "net/preface.h"

using namespace rfork;
using namespace rfork::net;

namespace {

/// A directory that goes with everything in it.
struct Folder {
  Folder() {
    char name[] = "/tmp/rfork-net-test-XXXXXX";
    path = ::mkdtemp(name);
  }
  ~Folder() { (void)std::system(("rm -r " + path).c_str()); }
  std::string path;
};

Failure failure_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Refusal& refusal) {
    INFO(refusal.what());
    CHECK(refusal.reasons().size() == 1);
    return refusal.failure();
  }
  return Failure{};
}

std::string refusal_of(const std::function<void()>& call) {
  try {
    call();
  } catch (const Refusal& refusal) {
    return refusal.what();
  }
  return "";
}

}  // namespace

TEST_CASE("addresses as people type them") {
  CHECK(parse_address("host").text() == "host:7411");
  CHECK(parse_address("10.0.0.2:80").text() == "10.0.0.2:80");
  CHECK(parse_address("[fe80::1]:80").text() == "[fe80::1]:80");
  CHECK(parse_address("[::1]").text() == "[::1]:7411");
  CHECK(parse_address("fe80::1").host == "fe80::1");
  CHECK(parse_address("::1").port == kDefaultPort);
  CHECK(parse_address("host:0", PortRule::bindable).port == 0);
  CHECK(parse_address("[::1]:7412", PortRule::required).port == 7412);
  for (const char* bad : {"host", "7412", "[::1]", "host:0", "ssh:ada@host"}) {
    CHECK(failure_of([&] { (void)parse_address(bad, PortRule::required); }) == Failure::usage);
  }
  for (const char* bad : {"", ":7411", "host:", "host:0", "host:70000", "host:-1", "host:7x",
                          "host: 7", "[::1", "[]:1", "[::1]x", "a b", "user@host", "a/b"}) {
    INFO(bad);
    CHECK(failure_of([&] { (void)parse_address(bad); }) == Failure::usage);
  }
}

TEST_CASE("addresses that ssh reaches") {
  for (const char* same : {"ssh:host", "ssh:ada@host", "ssh:ada@host:2222", "ssh:host:22",
                           "ssh:[fe80::1]", "ssh:ada@[fe80::1]:22", "ssh:ada@corp@host"}) {
    INFO(same);
    const Address address = parse_address(same);
    CHECK(address.way == Address::Way::ssh);
    CHECK(address.text() == same);
  }
  CHECK(parse_address("ssh:ada@corp@host").user == "ada@corp");
  CHECK(parse_address("ssh:ada@host:22").host == "host");
  CHECK(parse_address("ssh:ada@host").port == 0);
  CHECK(parse_address("ssh:fe80::1").text() == "ssh:[fe80::1]");
  CHECK(parse_address("ssh").way == Address::Way::tcp);
  CHECK(parse_address("[ssh]:7411").text() == "[ssh]:7411");
  for (const char* bad : {"ssh:", "ssh:@host", "ssh:ada@", "ssh::22", "ssh:host:", "ssh:host:0",
                          "ssh:host:70000", "ssh:[::1", "ssh:[]", "ssh:-oProxyCommand=x",
                          "ssh:-l@host", "ssh:a b", "ssh:a/b", "ssh:a da@host", "ssh:7411"}) {
    INFO(bad);
    CHECK(failure_of([&] { (void)parse_address(bad); }) == Failure::usage);
  }
  CHECK(refusal_of([] { (void)parse_address("ssh:"); }).find("names no host") != std::string::npos);
}

TEST_CASE("loopback is a number of the loopback net") {
  for (const char* yes : {"127.0.0.1", "127.9.9.9", "[::1]", "localhost", "::ffff:127.0.0.1"}) {
    CHECK(is_loopback(parse_address(yes)));
  }
  for (const char* no : {"0.0.0.0", "10.0.0.1", "[::]", "128.0.0.1", "127.0.0.1.example.org"}) {
    CHECK_FALSE(is_loopback(parse_address(no)));
  }
}

TEST_CASE("a key file is made once, private, and read back") {
  const Folder folder;
  const std::string path = folder.path + "/key";
  make_key_file(path);
  struct stat facts {};
  REQUIRE(::stat(path.c_str(), &facts) == 0);
  CHECK((facts.st_mode & 07777) == 0600);
  const Key key = load_key(path);
  CHECK(failure_of([&] { make_key_file(path); }) == Failure::usage);
  CHECK(load_key(path).bytes() == key.bytes());
  make_key_file(path + "2");
  CHECK(load_key(path + "2").bytes() != key.bytes());
}

TEST_CASE("key files that are none are refused by name") {
  const Folder folder;
  const std::string path = folder.path + "/key";
  const auto refused = [&] { return failure_of([&] { (void)load_key(path); }); };
  CHECK(refused() == Failure::usage);
  const std::string digits(64, 'a');
  for (const std::string& text : {std::string(), std::string("abc\n"), digits.substr(1),
                                  digits + "a", digits + "\n\n", digits.substr(1) + "g"}) {
    std::ofstream(path) << text;
    ::chmod(path.c_str(), 0600);
    INFO(text);
    CHECK(refused() == Failure::usage);
  }
  std::ofstream(path) << digits;
  CHECK(load_key(path).bytes()[0] == std::byte{0xaa});
  for (const mode_t mode : {0640u, 0604u, 0660u, 0602u}) {
    ::chmod(path.c_str(), mode);
    CHECK(refused() == Failure::usage);
  }
  ::unlink(path.c_str());
  ::mkdir(path.c_str(), 0700);
  CHECK(refused() == Failure::usage);
}

TEST_CASE("frame headers are judged before their bodies") {
  const auto same = [](FrameHeader header) {
    const FrameHeader back = decode_header(encode_header(header));
    return back.type == header.type && back.size == header.size;
  };
  CHECK(same({FrameType::offer, kMaxOfferBody}));
  CHECK(same({FrameType::check, kMaxOfferBody}));
  CHECK(same({FrameType::data, kMaxDataBody}));
  CHECK(same({FrameType::go, 0}));
  const auto refused = [](FrameHeader header) {
    return failure_of([&] { (void)decode_header(encode_header(header)); });
  };
  CHECK(refused({FrameType::offer, kMaxOfferBody + 1}) == Failure::connection_lost);
  CHECK(refused({FrameType::data, kMaxDataBody + 1}) == Failure::connection_lost);
  CHECK(refused({FrameType::answer, kMaxControlBody + 1}) == Failure::connection_lost);
  CHECK(refused({FrameType::go, UINT32_MAX}) == Failure::connection_lost);
  for (const int type : {0, 12, 15, 31, 255}) {
    CHECK(refused({static_cast<FrameType>(type), 0}) == Failure::connection_lost);
  }
}

TEST_CASE("prefaces tell which ends can't talk") {
  const auto said = [](Preface theirs, Role role, Mode mode) {
    return refusal_of([&] { check_preface(encode_preface(theirs), role, mode, "b"); });
  };
  using Catch::Matchers::Contains;
  CHECK(said({kProtocolVersion, Mode::key}, Role::client, Mode::key).empty());
  CHECK(said({kProtocolVersion, Mode::plain}, Role::server, Mode::plain).empty());
  CHECK_THAT(said({kProtocolVersion, Mode::key}, Role::client, Mode::plain),
             Contains("b wants a key; --key FILE"));
  CHECK_THAT(said({kProtocolVersion, Mode::plain}, Role::client, Mode::key),
             Contains("b runs without a key; leave --key out"));
  CHECK_THAT(said({kProtocolVersion, Mode::plain}, Role::server, Mode::key),
             Contains("b came without a key"));
  CHECK_THAT(said({3, Mode::plain}, Role::client, Mode::plain),
             Contains("b runs a later rfork: it speaks protocol 3, this is 2"));
  CHECK_THAT(said({1, Mode::plain}, Role::client, Mode::plain),
             Contains("b runs an older rfork: it speaks protocol 1, this is 2; install the same"));
  CHECK_THAT(said({kProtocolVersion, Mode::busy}, Role::client, Mode::key), Contains("too many"));
  CHECK_THAT(said({kProtocolVersion, Mode::user}, Role::client, Mode::plain), Contains("user"));
  auto garbage = encode_preface({});
  garbage[0] = std::byte{'H'};
  CHECK_FALSE(is_preface(std::span(garbage).first(1)));
  CHECK(is_preface({}));
  CHECK_THAT(refusal_of([&] { check_preface(garbage, Role::client, Mode::plain, "b"); }),
             Contains("b is no rforkd"));
}
