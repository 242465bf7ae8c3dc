#include "session/save_image.h"

#include <fcntl.h>
#include <fmt/format.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>

#include "base/clock.h"
#include "base/io.h"
#include "image/format.h"
#include "session/progress.h"

namespace rfork::session {

namespace {

constexpr size_t kChunk = 1u << 20;

std::string directory_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// A file that has no name until it is complete, so that not even SIGKILL leaves half of one behind.
// File systems without O_TMPFILE get a name of their own beside the wanted one.
class OutputFile {
 public:
  explicit OutputFile(const std::string& path) : path_(path) {
    struct stat status {};
    if (path == "-") {
      fd_ = UniqueFd(::dup(STDOUT_FILENO));
    } else if (::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) {
      throw Refusal(Failure::usage, path + " is a directory", "name a file for the image");
    } else if (::stat(path.c_str(), &status) == 0 && !S_ISREG(status.st_mode)) {
      fd_ = open_or_throw(path, O_WRONLY);
    } else {
      fd_ = try_open(directory_of(path), O_TMPFILE | O_RDWR, 0600);
      unnamed_ = static_cast<bool>(fd_);
      if (!unnamed_) open_beside();
    }
  }
  ~OutputFile() {
    if (!beside_.empty()) ::unlink(beside_.c_str());
  }
  OutputFile(const OutputFile&) = delete;
  OutputFile& operator=(const OutputFile&) = delete;

  void write(std::span<const std::byte> data) { write_full(fd_.get(), data, path_); }

  void finish() {
    if (!unnamed_ && beside_.empty()) return;
    if (::fsync(fd_.get()) != 0) throw_errno("fsync", path_);
    const std::string link = fmt::format("/proc/self/fd/{}", fd_.get());
    if (unnamed_) {
      if (::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, path_.c_str(), AT_SYMLINK_FOLLOW) == 0)
        return sync_directory();
      if (errno != EEXIST) throw_errno("link", path_);
      beside_ = fmt::format("{}.{}.part", path_, ::getpid());
      if (::linkat(AT_FDCWD, link.c_str(), AT_FDCWD, beside_.c_str(), AT_SYMLINK_FOLLOW) != 0) {
        const int error = errno;
        beside_.clear();
        throw Error("link", error, path_);
      }
    }
    if (::rename(beside_.c_str(), path_.c_str()) != 0) throw_errno("rename", path_);
    beside_.clear();
    sync_directory();
  }

 private:
  void open_beside() {
    beside_ = fmt::format("{}.{}.part", path_, ::getpid());
    fd_ = try_open(beside_, O_RDWR | O_CREAT | O_EXCL, 0600);
    if (fd_) return;
    const int error = errno;
    beside_.clear();
    throw Error("create", error, path_);
  }
  // The name is on disk when its directory is.
  void sync_directory() const {
    const UniqueFd directory = try_open(directory_of(path_), O_RDONLY | O_DIRECTORY);
    if (directory) ::fsync(directory.get());
  }

  std::string path_;
  std::string beside_;
  UniqueFd fd_;
  bool unnamed_ = false;
};

}  // namespace

Saved save_image(pid_t pid, const tracer::Options& options, const std::string& path) {
  const int64_t started = clock_ns(CLOCK_MONOTONIC);
  const tracer::Examination examination = tracer::examine(pid, options);
  OutputFile file(path);
  tracer::Capture capture(examination, options, {});
  image::Encoder encoder(capture.snapshot(), capture.runs());
  file.write(encoder.metadata());
  Progress progress(fmt::format("{} → {}", pid, path), encoder.total_size());
  Bytes buffer(kChunk);
  while (const size_t size = capture.read(buffer)) {
    const auto data = std::span<const std::byte>(buffer).first(size);
    encoder.absorb(data);
    file.write(data);
    progress.add(size);
  }
  file.write(encoder.trailer());
  file.finish();
  if (options.move) capture.end_original();
  return {encoder.total_size(), capture.paused().count(), clock_ns(CLOCK_MONOTONIC) - started};
}

}  // namespace rfork::session
