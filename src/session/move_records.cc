#include "session/move_records.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <filesystem>
#include <sstream>
#include <thread>

#include "base/error.h"
#include "base/io.h"
#include "session/log_store.h"

namespace rfork::session {

namespace {

constexpr const char* kSuffix = ".move";
constexpr size_t kRecordSize = 128;  // of one write(2): a process that is killed leaves no half

struct Record {
  std::string state = {};  ///< receiving, granted, running or aborted
  std::string boot_id = {};
  pid_t pid = 0;
  std::string child_id = "-";
};

class Locked {
 public:
  explicit Locked(int fd) : fd_(fd) {
    while (::flock(fd_, LOCK_EX) != 0) {
      if (errno != EINTR) throw_errno("flock", "the record of a move");
    }
  }
  ~Locked() { ::flock(fd_, LOCK_UN); }
  Locked(const Locked&) = delete;
  Locked& operator=(const Locked&) = delete;

  std::optional<Record> read() const {
    std::array<char, kRecordSize> bytes{};
    const ssize_t size = ::pread(fd_, bytes.data(), bytes.size(), 0);
    if (size != static_cast<ssize_t>(bytes.size())) return std::nullopt;
    std::istringstream words(std::string(bytes.data(), bytes.size()));
    Record record;
    if (!(words >> record.state >> record.boot_id >> record.pid >> record.child_id)) {
      return std::nullopt;
    }
    return record;
  }

  void write(const Record& record) const {
    const std::string text =
        fmt::format("{} {} {} {}", record.state, record.boot_id, record.pid, record.child_id);
    const std::string line = fmt::format("{:<{}}\n", text, kRecordSize - 1);
    const ssize_t written = ::pwrite(fd_, line.data(), line.size(), 0);
    if (written < 0) throw_errno("write", "the record of a move");
    if (written != static_cast<ssize_t>(kRecordSize)) {
      throw Error("write", ENOSPC, "the record of a move");
    }
  }

 private:
  int fd_;
};

std::string boot_id() {
  const auto text = try_read_file_at(AT_FDCWD, "/proc/sys/kernel/random/boot_id");
  return text ? text->substr(0, text->find('\n')) : "";
}

Resolution unknown(std::string why) {
  return {Resolution::State::unknown, "", 0, std::move(why)};
}

}  // namespace

MoveRecords::MoveRecords(const std::string& state_dir, size_t max_former) : boot_id_(boot_id()) {
  if (state_dir.empty() || boot_id_.empty()) return;
  const std::string directory = state_dir + "/moves";
  std::error_code error;
  std::filesystem::create_directories(state_dir, error);  // where that fails the next does too
  if (::mkdir(directory.c_str(), 0700) != 0 && errno != EEXIST) return;
  if (::access(directory.c_str(), R_OK | W_OK | X_OK) != 0) return;
  directory_ = directory;
  keep_newest(directory_, kSuffix, max_former);
}

std::string MoveRecords::path_of(const std::string& move_id) const {
  return directory_ + "/" + move_id + kSuffix;
}

void MoveRecords::begin(const std::string& move_id) {
  if (directory_.empty()) return;
  UniqueFd file = open_or_throw(path_of(move_id), O_RDWR | O_CREAT | O_EXCL | O_NOFOLLOW, 0600);
  Locked(file.get()).write({"receiving", boot_id_});
  own_[move_id] = std::move(file);
}

bool MoveRecords::grant(const std::string& move_id) {
  const auto own = own_.find(move_id);
  if (own == own_.end()) return true;  // there is no directory: no question can find it
  const Locked file(own->second.get());
  const auto record = file.read();
  if (!record || record->state != "receiving") return false;
  file.write({"granted", boot_id_});
  return true;
}

void MoveRecords::let_go(const std::string& move_id, const std::string& child_id, pid_t pid) {
  const auto own = own_.find(move_id);
  if (own == own_.end()) return;
  Locked(own->second.get()).write({"running", boot_id_, pid, child_id});
  own_.erase(own);
}

void MoveRecords::abort(const std::string& move_id) {
  const auto own = own_.find(move_id);
  if (own == own_.end()) return;
  Locked(own->second.get()).write({"aborted", boot_id_});
  own_.erase(own);
}

Resolution MoveRecords::resolve(const std::string& move_id) {
  constexpr std::chrono::milliseconds kPatience{5'000}, kLook{20};
  const UniqueFd file =
      directory_.empty() ? UniqueFd() : try_open(path_of(move_id), O_RDWR | O_NOFOLLOW);
  if (!file) return unknown("nothing is known of it to this user of that host");
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  for (;; std::this_thread::sleep_for(kLook)) {
    const Locked locked(file.get());
    const auto record = locked.read();
    if (!record) return unknown("what is written of it can't be read");
    if (record->boot_id != boot_id_)
      return unknown("it began on another host, or before this one was started anew");
    if (record->state == "running") {
      return {Resolution::State::running, record->child_id, record->pid, "it was let run there"};
    }
    if (record->state == "receiving") locked.write({"aborted", boot_id_});
    if (record->state == "receiving" || record->state == "aborted") {
      return {Resolution::State::aborted, "", 0, "it was not let run there, and never will be"};
    }
    if (std::chrono::steady_clock::now() > deadline) break;
  }
  return unknown("its rforkd ended when it was about to let it run");
}

}  // namespace rfork::session
