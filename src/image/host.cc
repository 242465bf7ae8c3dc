#include "image/host.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <linux/capability.h>
#include <linux/prctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/utsname.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <filesystem>

#include "base/io.h"
#include "image/fanotify.h"
#include "image/host_x86_64.h"
#include "image/privileges.h"

namespace rfork::image {

namespace {

constexpr uint64_t kLimit47 = (uint64_t{1} << 47) - 4096;  // TASK_SIZE_MAX without and
constexpr uint64_t kLimit56 = (uint64_t{1} << 56) - 4096;  // with five levels of page tables

constexpr const char* kLa57 = "la57";
constexpr const char* kMmMap = "mm_map";
constexpr const char* kRseq = "rseq";
constexpr const char* kTimeNamespace = "time_namespace";
constexpr const char* kMemfdExec = "memfd_exec";
constexpr const char* kGuardRegions = "guard_regions";
constexpr const char* kSeal = "seal";
constexpr const char* kFanotify = "fanotify";
constexpr const char* kTimerIds = "timer_ids";
constexpr std::string_view kHugetlb = "hugetlb:";

constexpr size_t kSmallPage = 4096;
constexpr int kMadvGuardInstall = 102;  // Linux 6.13, asm-generic/mman-common.h
constexpr long kSysMseal = 462;         // Linux 6.10

// prctl(PR_TIMER_CREATE_RESTORE_IDS), which the headers of Debian 12 haven't.
constexpr int kTimerRestoreIds = 77;
constexpr unsigned long kTimerRestoreIdsGet = 2;
// Else ids are counted up to by timers that are deleted again, a microsecond each.
constexpr int32_t kHighestCountedId = 1 << 20;

/// The first line of a file, empty when it can't be read.
std::string line_of(const std::string& path) {
  const auto text = try_read_file_at(AT_FDCWD, path);
  return text ? text->substr(0, text->find('\n')) : "";
}

/// The kernel gives addresses above 47 bits only to who asks for one
/// (Documentation/arch/x86/x86_64/5level-paging.rst).
bool has_wide_addresses(size_t page_size) {
  void* const hint = reinterpret_cast<void*>(uint64_t{1} << 48);
  void* const page =
      ::mmap(hint, page_size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (page == MAP_FAILED) return false;
  ::munmap(page, page_size);
  return reinterpret_cast<uint64_t>(page) >= kLimit47;
}

bool has_mm_map() {
  unsigned size = 0;
  return ::prctl(PR_SET_MM, PR_SET_MM_MAP_SIZE, &size, 0, 0) == 0;
}

bool has_rseq() {
  // Without a length this is refused by a kernel that knows the call.
  return ::syscall(SYS_rseq, nullptr, 0, 0, 0) == 0 || errno != ENOSYS;
}

void add_huge_pages(std::vector<std::string>& abilities) {
  namespace fs = std::filesystem;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/sys/kernel/mm/hugepages", ignored)) {
    const std::string name = entry.path().filename();  // hugepages-2048kB
    unsigned long kib = 0;
    if (std::sscanf(name.c_str(), "hugepages-%lukB", &kib) != 1) continue;
    const auto some = [&](const char* file) {
      const std::string count = line_of(entry.path() / file);
      return !count.empty() && count != "0";
    };
    if (some("nr_hugepages") || some("nr_overcommit_hugepages")) {
      abilities.push_back(fmt::format("{}{}", kHugetlb, kib * 1024));
    }
  }
}

/// What can be done to memory, by doing it to a page.
void add_memory_calls(std::vector<std::string>& abilities) {
  void* const page =
      ::mmap(nullptr, kSmallPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (page == MAP_FAILED) return;
  if (::madvise(page, kSmallPage, kMadvGuardInstall) == 0) abilities.emplace_back(kGuardRegions);
  ::munmap(page, kSmallPage);
  if (::syscall(kSysMseal, nullptr, 0, 0) == 0) abilities.emplace_back(kSeal);
  const long key = ::syscall(SYS_pkey_alloc, 0, PKEY_DISABLE_ACCESS);
  if (key < 0) return;
  abilities.emplace_back(kProtectionKeys);
  ::syscall(SYS_pkey_free, key);
}

std::vector<std::string> find_abilities(bool wide_addresses) {
  std::vector<std::string> abilities;
  if (wide_addresses) abilities.emplace_back(kLa57);
  if (has_mm_map()) abilities.emplace_back(kMmMap);
  if (has_rseq()) abilities.emplace_back(kRseq);
  if (::access("/proc/self/ns/time", F_OK) == 0) abilities.emplace_back(kTimeNamespace);
  // 2 forbids memfds that can be executed; kernels before 6.3 have no such setting.
  if (line_of("/proc/sys/vm/memfd_noexec") != "2") abilities.emplace_back(kMemfdExec);
  add_memory_calls(abilities);
  // Linux 6.15; answers whether it is asked for.
  if (::prctl(kTimerRestoreIds, kTimerRestoreIdsGet, 0, 0, 0) >= 0)
    abilities.emplace_back(kTimerIds);
  if (has_global_capability(CAP_SYS_ADMIN)) abilities.emplace_back(kFanotify);
  add_huge_pages(abilities);
  add_privileges(abilities);
  std::ranges::sort(abilities);
  return abilities;
}

bool has(const std::vector<std::string>& names, std::string_view name) {
  return std::ranges::find(names, name) != names.end();
}

Reason missing_ability(const std::string& ability) {
  if (ability.starts_with(kHugetlb)) {
    const std::string size = ability.substr(kHugetlb.size());
    return {fmt::format("the process has huge pages of {} bytes, for which there is no pool there",
                        size),
            "give the destination some in /sys/kernel/mm/hugepages"};
  }
  if (ability == kLa57) {
    return {"the process uses addresses above 47 bits, which the destination's processor lacks",
            "choose a destination with five-level page tables (la57)"};
  }
  if (ability == kGuardRegions) {
    return {
        "the process has guard regions (MADV_GUARD_INSTALL), which the destination's kernel lacks",
        "it needs Linux 6.13 or later"};
  }
  if (ability == kSeal) {
    return {"the process has sealed memory (mseal), which the destination's kernel lacks",
            "it needs Linux 6.10 or later"};
  }
  if (ability == kProtectionKeys) {
    return {"the process has memory protection keys, which the destination lacks",
            "choose a destination whose processor and kernel have them (ospke in /proc/cpuinfo)"};
  }
  if (ability == kMemfdExec) {
    return {"the process runs code from a memfd, which the destination forbids",
            "set vm.memfd_noexec to 0 there"};
  }
  if (ability == kMmMap) {
    return {"the destination's kernel has no prctl(PR_SET_MM_MAP)",
            "it needs a kernel with CONFIG_CHECKPOINT_RESTORE"};
  }
  if (ability == kRseq) {
    return {"the process has restartable sequences (rseq), which the destination's kernel lacks",
            "it needs Linux 4.18 or later with CONFIG_RSEQ"};
  }
  if (ability == kFanotify) {
    return {"the process has a fanotify group of root's, which needs CAP_SYS_ADMIN there",
            "--drop-fd goes on without it, or let root restore it"};
  }
  if (ability == kTimerIds) {
    return {fmt::format("the process has a POSIX timer with an id above {}, which the "
                        "destination's kernel can't give",
                        kHighestCountedId),
            "it needs Linux 6.15 or later, or --drop-timers"};
  }
  if (auto reason = missing_privilege(ability)) return *reason;
  return {fmt::format("the destination lacks the kernel ability '{}'", ability),
          "choose a destination with a later kernel"};
}

void add_cpu_misfits(const Host& there, const Host& here, std::vector<Reason>& reasons) {
  constexpr const char* kAdvice =
      "--ignore-cpu accepts the risk that the process uses it, or choose a like processor";
  for (const std::string& feature : there.cpu_features) {
    if (has(here.cpu_features, feature)) continue;
    reasons.push_back(
        {fmt::format("the destination's processor lacks the extension {}", feature), kAdvice});
  }
  for (unsigned i = 0; i < 63; ++i) {
    if ((there.xcr0 & ~here.xcr0) >> i & 1) {
      reasons.push_back({fmt::format("the destination doesn't keep XSAVE component {}, {}", i,
                                     name_of_xstate_component(i)),
                         kAdvice});
    }
  }
}

}  // namespace

Host this_host() {
  Host host;
  utsname names{};
  ::uname(&names);
  host.name = names.nodename;
  host.kernel = names.release;
  host.boot_id = line_of("/proc/sys/kernel/random/boot_id");
  host.page_size = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
  const bool wide = has_wide_addresses(host.page_size);
  host.address_limit = wide ? kLimit56 : kLimit47;
  describe_cpu(host);
  host.abilities = find_abilities(wide);
  return host;
}

bool has_ability(const Host& host, std::string_view name) {
  return has(host.abilities, name);
}

Needs needs_of(const Snapshot& snapshot) {
  Needs needs{snapshot.host, {kMmMap}};
  std::vector<std::string>& abilities = needs.abilities;
  for (const Process& process : snapshot.processes) {
    if (process.protection_keys != 0) abilities.emplace_back(kProtectionKeys);
    for (const Mapping& mapping : process.mappings) {
      if (!mapping.guards.empty()) abilities.emplace_back(kGuardRegions);
      if (mapping.protection_key != 0) abilities.emplace_back(kProtectionKeys);
      if (mapping.sealed) abilities.emplace_back(kSeal);
      if (mapping.range.end > kLimit47) abilities.emplace_back(kLa57);
      if (mapping.huge_page_size != 0) {
        abilities.push_back(fmt::format("{}{}", kHugetlb, mapping.huge_page_size));
      }
      if (mapping.kind != Mapping::Kind::object || (mapping.protection & PROT_EXEC) == 0) continue;
      const Object* object = find_id(snapshot.objects, mapping.backing);
      if (object != nullptr && object->kind == Object::Kind::memfd) {
        abilities.emplace_back(kMemfdExec);
      }
    }
    const auto uses_rseq = [](const Thread& thread) { return thread.rseq.address != 0; };
    if (std::ranges::any_of(process.threads, uses_rseq)) abilities.emplace_back(kRseq);
    if (!process.posix_timers.empty() && process.posix_timers.back().id > kHighestCountedId)
      abilities.emplace_back(kTimerIds);
    if (!snapshot.drop_attributes) add_privileged_needs(process, abilities);
  }
  for (const Object& object : snapshot.objects) {
    if (object.huge_page_size != 0) {
      abilities.push_back(fmt::format("{}{}", kHugetlb, object.huge_page_size));
    }
  }
  for (const Description& description : snapshot.descriptions) {
    if (description.fanotify && needs_privilege(*description.fanotify))
      abilities.emplace_back(kFanotify);
  }
  std::ranges::sort(abilities);
  abilities.erase(std::unique(abilities.begin(), abilities.end()), abilities.end());
  return needs;
}

std::vector<Reason> misfits(const Needs& needs, const Host& here, const FitOptions& options) {
  const Host& there = needs.host;
  std::vector<Reason> reasons;
  if (there.architecture != here.architecture) {
    reasons.push_back({fmt::format("the process is of a {} host, the destination is {}",
                                   there.architecture, here.architecture),
                       "choose a destination of the same architecture"});
    return reasons;  // nothing else can be compared
  }
  if (there.page_size != here.page_size) {
    reasons.push_back({fmt::format("the process has pages of {} bytes, the destination of {}",
                                   there.page_size, here.page_size),
                       "choose a destination with the same page size"});
  }
  if (!options.ignore_cpu) add_cpu_misfits(there, here, reasons);
  for (const std::string& ability : needs.abilities) {
    if (fulfils(here.abilities, ability)) continue;
    if (options.drop_attributes && missing_privilege(ability)) continue;
    reasons.push_back(missing_ability(ability));
  }
  return reasons;
}

}  // namespace rfork::image
