#include "tools/check_items.h"

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <set>

#include "base/text.h"
#include "image/json.h"
#include "image/socket_words.h"

namespace rfork {

namespace {

using image::Description;
using image::Mapping;
using image::Object;
using session::CheckReport;

std::string counted(size_t count, const char* one, const char* more) {
  return fmt::format("{} {}", count, count == 1 ? one : more);
}

/// Which files' contents the image carries.
std::map<uint32_t, const Object*> carried_files(const image::Snapshot& snapshot) {
  std::map<uint32_t, const Object*> carried;
  for (const Object& object : snapshot.objects) {
    if (object.file) carried[*object.file] = &object;
  }
  return carried;
}

class Items {
 public:
  Items(const CheckReport& report, bool into_file)
      : report_(report), snapshot_(report.snapshot), into_file_(into_file) {}

  void add_memory();
  void add_segments();
  void add_process();
  void add_mapped_files();
  void add_descriptors();
  void add_differences();
  std::vector<CheckItem> take();

 private:
  void add(Fate fate, std::string what, std::vector<int> descriptors = {}) {
    items_.push_back({fate, std::move(descriptors), std::move(what), {}});
  }
  void add_description(const Description& description, std::vector<int> descriptors);
  std::string stands_in(const std::vector<int>& descriptors) const;

  const CheckReport& report_;
  const image::Snapshot& snapshot_;
  bool into_file_;
  std::vector<CheckItem> items_;
};

void Items::add_memory() {
  const image::Process& process = snapshot_.processes[0];
  const std::string amount = report_.stopped
                                 ? human_bytes(report_.memory_bytes) + " of memory"
                                 : human_bytes(report_.resident_bytes) + " of memory in use";
  add(Fate::carried,
      fmt::format("{}, {}, {}", amount, counted(process.mappings.size(), "mapping", "mappings"),
                  counted(process.threads.size(), "thread", "threads")));
}

void Items::add_segments() {
  for (const image::Object& object : snapshot_.objects) {
    if (!object.segment) continue;
    const image::SysvSegment& segment = *object.segment;
    std::string words = fmt::format("SysV segment {}, {}", segment.id, human_bytes(segment.size));
    if (segment.key != 0) words += fmt::format(", key {:#x}", static_cast<uint32_t>(segment.key));
    add(Fate::carried, words + (segment.removed ? ", removed" : ""));
  }
}

/// What only the stopped process tells.
void Items::add_process() {
  const image::Process& process = snapshot_.processes[0];
  if (report_.pid_known && report_.pid_kept) {
    add(Fate::carried, fmt::format("pid {}{}", process.pid,
                                   report_.pid_namespace ? ", in a pid namespace of its own" : ""));
  }
  if (!report_.stopped) return;
  size_t pending = process.pending.size(), waiting = 0;
  for (const image::Thread& thread : process.threads) {
    pending += thread.pending.size();
    waiting += thread.waits ? 1 : 0;
  }
  if (waiting > 0) {
    add(Fate::carried, counted(waiting, "system call that a thread waits in",
                               "system calls that threads wait in"));
  }
  if (pending > 0) add(Fate::carried, counted(pending, "pending signal", "pending signals"));
  const auto armed = std::ranges::count_if(
      process.timers, [](const image::IntervalTimer& timer) { return timer.value_us != 0; });
  if (armed > 0) {
    add(Fate::carried, counted(static_cast<size_t>(armed), "interval timer", "interval timers"));
  }
  if (process.stop_signal != 0) add(Fate::carried, "that it is stopped by job control");
}

void Items::add_mapped_files() {
  const image::Process& process = snapshot_.processes[0];
  const auto carried = carried_files(snapshot_);
  std::set<std::string> there, travelling;
  const auto sort = [&](uint32_t id) {
    const image::File* file = image::find_id(snapshot_.files, id);
    if (file != nullptr) (carried.contains(id) ? travelling : there).insert(visible(file->path));
  };
  for (const Mapping& mapping : process.mappings) {
    if (mapping.kind == Mapping::Kind::file) sort(mapping.backing);
  }
  if (!process.executable_deleted) sort(process.executable);
  const auto say = [&](Fate fate, const std::set<std::string>& files, const char* more) {
    if (files.empty()) return;
    add(fate, counted(files.size(), "mapped file", "mapped files") + more);
    items_.back().files.assign(files.begin(), files.end());
  };
  say(Fate::reopened, there, "");
  say(into_file_ ? Fate::carried : Fate::fetched, travelling, ", as far as mapped");
}

std::string Items::stands_in(const std::vector<int>& descriptors) const {
  if (into_file_) return "what rfork-run is given";
  const bool in = std::ranges::find(descriptors, 0) != descriptors.end();
  const bool out = std::ranges::any_of(descriptors, [](int fd) { return fd > 0; });
  if (in && out) return "empty input and a log (rforkctl logs)";
  return in ? "empty input" : "a log (rforkctl logs)";
}

/// What is queued, watched or locked, as far as the kind has it.
std::string contents_of(const Description& description) {
  std::string text;
  size_t queued = 0;
  for (const Bytes& part : description.queued) queued += part.size();
  if (queued > 0) text += ", " + human_bytes(queued) + " in it";
  if (!description.watches.empty())
    text += ", " + counted(description.watches.size(), "watch", "watches");
  if (!description.inotify.empty())
    text += ", " + counted(description.inotify.size(), "watch", "watches");
  if (description.fanotify && !description.fanotify->marks.empty())
    text += ", " + counted(description.fanotify->marks.size(), "mark", "marks");
  const auto leases = static_cast<size_t>(
      std::ranges::count(description.locks, image::FileLock::Kind::lease, &image::FileLock::kind));
  const size_t locks = description.locks.size() - leases;
  if (locks > 0) text += ", " + counted(locks, "lock", "locks");
  if (leases > 0) text += ", a lease";
  return text;
}

void Items::add_description(const Description& description, std::vector<int> descriptors) {
  using Kind = Description::Kind;
  const std::string path = visible(description.path);
  const std::string at =
      description.offset > 0 ? fmt::format(" at {}", description.offset) : std::string();
  switch (description.kind) {
    case Kind::regular: {
      const auto carried = carried_files(snapshot_);
      const auto found = description.file ? carried.find(*description.file) : carried.end();
      if (found == carried.end()) {
        return add(Fate::reopened, path + at + contents_of(description), std::move(descriptors));
      }
      return add(into_file_ ? Fate::carried : Fate::fetched,
                 fmt::format("{}{}, {}{}", path, at, human_bytes(found->second->size),
                             contents_of(description)),
                 std::move(descriptors));
    }
    case Kind::directory:
    case Kind::device:
    case Kind::kernel_file:
    case Kind::path:
      return add(Fate::reopened, path + at + contents_of(description), std::move(descriptors));
    case Kind::stdio:
      return add(Fate::changed, fmt::format("{} becomes {}", path, stands_in(descriptors)),
                 std::move(descriptors));
    case Kind::relay:
      return add(Fate::relayed,
                 description.socket ? visible(image::socket_words(*description.socket)) : path,
                 std::move(descriptors));
    case Kind::contents: {
      const Object* object =
          description.object ? image::find_id(snapshot_.objects, *description.object) : nullptr;
      return add(
          Fate::carried,
          fmt::format("{}{}{}, {}{}", path, path.starts_with("/memfd:") ? "" : " (deleted)", at,
                      human_bytes(object == nullptr ? 0 : object->size), contents_of(description)),
          std::move(descriptors));
    }
    case Kind::socket:
      if (description.socket && description.socket->kept && into_file_) {
        return add(Fate::carried,
                   visible(image::socket_words(*description.socket)) +
                       ", held on this host until rfork-run takes it on",
                   std::move(descriptors));
      }
      if (description.socket && description.socket->tcp) {
        return add(Fate::carried,
                   visible(image::socket_words(*description.socket)) + ": its address moves too",
                   std::move(descriptors));
      }
      return add(Fate::carried,
                 (description.socket ? visible(image::socket_words(*description.socket))
                                     : image::name_of(description.kind)) +
                     contents_of(description),
                 std::move(descriptors));
    default: {
      const bool named = path.starts_with('/');
      return add(Fate::carried,
                 fmt::format("{}{}{}", image::name_of(description.kind), named ? " " + path : "",
                             contents_of(description)),
                 std::move(descriptors));
    }
  }
}

void Items::add_descriptors() {
  std::map<uint32_t, std::vector<int>> numbers;
  for (const image::Descriptor& descriptor : snapshot_.processes[0].descriptors) {
    numbers[descriptor.description].push_back(descriptor.fd);
  }
  for (const Description& description : snapshot_.descriptions) {
    const auto found = numbers.find(description.id);
    if (found != numbers.end()) add_description(description, found->second);
  }
}

void Items::add_differences() {
  if (report_.ghost) {
    add(Fate::relayed,
        fmt::format("signals to pid {}, its stops and its end: a ghost stays here", report_.pid));
  }
  if (report_.pid_known && !report_.pid_kept) {
    add(Fate::changed, fmt::format("pid {} becomes another", snapshot_.processes[0].pid));
  }
  add(Fate::changed, "CPU time used so far (times(2), CLOCK_PROCESS_CPUTIME_ID): counts from zero");
  for (const std::string& warning : report_.warnings) add(Fate::changed, warning);
  for (const std::string& loss : report_.losses) add(Fate::lost, visible(loss));
  for (const int fd : report_.dropped_fds) add(Fate::lost, "closed there", {fd});
}

std::vector<CheckItem> Items::take() {
  std::ranges::stable_sort(items_, [](const CheckItem& a, const CheckItem& b) {
    return std::pair(a.fate, a.descriptors) < std::pair(b.fate, b.descriptors);
  });
  return std::move(items_);
}

}  // namespace

const char* name_of(Fate fate) {
  switch (fate) {
    case Fate::carried:
      return "carried";
    case Fate::reopened:
      return "reopened";
    case Fate::fetched:
      return "fetched";
    case Fate::relayed:
      return "relayed";
    case Fate::changed:
      return "changed";
    case Fate::lost:
      return "lost";
  }
  return "unknown";
}

std::vector<CheckItem> items_of(const CheckReport& report, bool into_file) {
  if (!report.known) return {};
  Items items(report, into_file);
  items.add_memory();
  items.add_segments();
  items.add_process();
  items.add_mapped_files();
  items.add_descriptors();
  items.add_differences();
  return items.take();
}

}  // namespace rfork
