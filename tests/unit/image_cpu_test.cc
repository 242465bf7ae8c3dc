// Whether a process fits on a host, and what this host says of itself.
#include <sys/mman.h>

#include <catch2/catch.hpp>
#include <fstream>
#include <iterator>
#include <set>
#include <sstream>

#include "image/fanotify.h"
#include "image/host.h"
#include "image/privileges.h"
#include "image_samples.h"

using namespace rfork;
using namespace rfork::image;
using Catch::Matchers::Contains;

namespace {

Needs needs() {
  return {samples::small_snapshot().host, {"mm_map"}};
}

std::vector<std::string> lines_of(const Needs& needs, const Host& here, FitOptions options = {}) {
  std::vector<std::string> lines;
  for (const Reason& reason : misfits(needs, here, options)) lines.push_back(reason.line());
  return lines;
}

}  // namespace

TEST_CASE("a process fits on its own host and on a better one") {
  Host better = needs().host;
  better.cpu_features.push_back("avx512f");
  better.xcr0 |= 0xe0;
  better.abilities.push_back("la57");
  CHECK(lines_of(needs(), needs().host).empty());
  CHECK(lines_of(needs(), better).empty());
}

TEST_CASE("a missing extension is named, and --ignore-cpu accepts it") {
  Host here = needs().host;
  here.cpu_features = {"avx", "sse4_2"};
  const auto lines = lines_of(needs(), here);
  REQUIRE(lines.size() == 1);
  CHECK_THAT(lines[0], Contains("avx2") && Contains("--ignore-cpu"));
  CHECK(lines_of(needs(), here, {.ignore_cpu = true}).empty());
}

TEST_CASE("hints of speed never refuse") {
  Host here = needs().host;
  here.cpu_hints.clear();
  CHECK(lines_of(needs(), here).empty());
}

TEST_CASE("a missing XSAVE component is named") {
  Host here = needs().host;
  here.xcr0 = 3;
  const auto lines = lines_of(needs(), here);
  REQUIRE(lines.size() == 1);
  CHECK_THAT(lines[0], Contains("component 2, AVX"));
  CHECK(lines_of(needs(), here, {.ignore_cpu = true}).empty());
}

TEST_CASE("architecture, page size and abilities are named, each on a line") {
  Host here = needs().host;
  here.architecture = "aarch64";
  CHECK_THAT(lines_of(needs(), here, {.ignore_cpu = true}).at(0), Contains("aarch64"));
  here = needs().host;
  here.page_size = 16384;
  here.abilities.clear();
  Needs wide = needs();
  wide.abilities = {"la57", "mm_map", "rseq", "hugetlb:2097152", "memfd_exec", "telepathy"};
  const auto lines = lines_of(wide, here);
  REQUIRE(lines.size() == 7);
  CHECK_THAT(lines[0], Contains("16384"));
  CHECK_THAT(lines[1], Contains("47 bits"));
  CHECK_THAT(lines[4], Contains("2097152"));
  CHECK_THAT(lines[6], Contains("telepathy"));
}

TEST_CASE("privileges are compared by what they reach") {
  const std::vector<std::string> here{"nice:-5", "oom_score_adj:0", "realtime:10"};
  CHECK(fulfils(here, "nice:-5"));
  CHECK_FALSE(fulfils(here, "nice:-6"));
  CHECK(fulfils(here, "realtime:9"));
  CHECK_FALSE(fulfils(here, "realtime:11"));
  CHECK(fulfils(here, "oom_score_adj:3"));
  CHECK_FALSE(fulfils(here, "oom_score_adj:-1"));
  CHECK_FALSE(fulfils(here, "securebits"));
  Host bare = needs().host;
  Needs more = needs();
  more.abilities = {"mm_map", "nice:-1", "realtime:50", "securebits"};
  const auto lines = lines_of(more, bare);
  REQUIRE(lines.size() == 3);
  for (const std::string& line : lines) CHECK_THAT(line, Contains("--drop-attributes"));
  CHECK_THAT(lines[1], Contains("real-time priority 50") && Contains("CAP_SYS_NICE"));
  CHECK(lines_of(more, bare, {.drop_attributes = true}).empty());
}

TEST_CASE("a fanotify group needs CAP_SYS_ADMIN but for what any user may have") {
  FanotifyGroup group{FAN_REPORT_DFID_NAME | FAN_CLOEXEC, 0, {{.flags = FAN_MARK_EVICTABLE}}};
  CHECK_FALSE(needs_privilege(group));
  group.marks.push_back({.flags = FAN_MARK_FILESYSTEM});
  CHECK(needs_privilege(group));
  CHECK(needs_privilege({FAN_CLOEXEC, 0, {}}));  // its events bring descriptors
  CHECK(needs_privilege({FAN_REPORT_FID | FAN_UNLIMITED_QUEUE, 0, {}}));
  CHECK(needs_privilege({FAN_REPORT_FID | FAN_CLASS_CONTENT, 0, {}}));

  Snapshot snapshot = samples::rich_snapshot();
  snapshot.descriptions[3].fanotify = group;
  const Needs more = needs_of(snapshot);
  CHECK(std::ranges::find(more.abilities, "fanotify") != more.abilities.end());
  Needs only = needs();
  only.abilities = {"fanotify"};
  const auto lines = lines_of(only, needs().host, {.drop_attributes = true});
  REQUIRE(lines.size() == 1);
  CHECK_THAT(lines[0], Contains("CAP_SYS_ADMIN") && Contains("--drop-fd"));
}

TEST_CASE("needs come from what the process has") {
  Snapshot snapshot = samples::rich_snapshot();
  std::vector<std::string> expected{"hugetlb:2097152", "mm_map", "nice:-5", "oom_score_adj:-17",
                                    "rseq"};
  CHECK(needs_of(snapshot).abilities == expected);
  Snapshot lenient = snapshot;
  lenient.drop_attributes = true;
  CHECK(needs_of(lenient).abilities ==
        std::vector<std::string>{"hugetlb:2097152", "mm_map", "rseq"});
  snapshot.processes[0].mappings[3].protection |= PROT_EXEC;
  expected = {"hugetlb:2097152", "memfd_exec", "mm_map", "nice:-5", "oom_score_adj:-17", "rseq"};
  CHECK(needs_of(snapshot).abilities == expected);
  Snapshot small = samples::small_snapshot();
  small.processes[0].mappings[0].range = {uint64_t{1} << 50, (uint64_t{1} << 50) + 4096};
  expected = {"la57", "mm_map"};
  CHECK(needs_of(small).abilities == expected);
}

TEST_CASE("this host's features are those of /proc/cpuinfo") {
  const Host host = this_host();
  CHECK(host.page_size == 4096);
  CHECK(host.address_limit >= (uint64_t{1} << 47) - 4096);
  CHECK(host.boot_id.size() == 36);
  CHECK(std::ranges::is_sorted(host.cpu_features));
  std::ifstream in("/proc/cpuinfo");
  std::string line;
  while (std::getline(in, line) && !line.starts_with("flags")) continue;
  if (!line.starts_with("flags")) {
    WARN("no flags in /proc/cpuinfo: nothing to compare with");
    return;
  }
  std::istringstream words(line);
  const std::set<std::string> flags{std::istream_iterator<std::string>(words), {}};
  for (const char* name : {"pni",
                           "ssse3",
                           "sse4_2",
                           "avx",
                           "avx2",
                           "avx512f",
                           "avx512_bf16",
                           "sha_ni",
                           "vaes",
                           "bmi2",
                           "fma",
                           "rdtscp",
                           "clzero",
                           "xsaveopt",
                           "xsavec",
                           "abm",
                           "avx_vnni",
                           "amx_tile",
                           "avx512_vp2intersect",
                           "gfni"}) {
    INFO(name);
    const bool here = std::ranges::find(host.cpu_features, name) != host.cpu_features.end();
    CHECK(here == (flags.count(name) == 1));
  }
}
