#include "loader/stub_image.h"

#include <fcntl.h>
#include <linux/memfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

#include "base/error.h"
#include "base/io.h"

#ifndef MFD_EXEC
#define MFD_EXEC 0x0010U
#endif

extern "C" const std::byte rfork_stub_image[];
extern "C" const std::byte rfork_stub_image_end[];

namespace rfork::loader {

namespace {

/// A memfd can be run when its mode has an x bit left: vm.memfd_noexec takes it away.
bool runnable(int fd) {
  struct stat status;
  return ::fstat(fd, &status) == 0 && (status.st_mode & S_IXUSR) != 0;
}

UniqueFd unlinked_file() {
  const char* folder = std::getenv("TMPDIR");
  for (const std::string place :
       {folder != nullptr ? folder : "/tmp", "/tmp", "/var/tmp", "/run", "."}) {
    std::string name = place + "/rfork-stub-XXXXXX";
    UniqueFd writer(::mkostemp(name.data(), O_CLOEXEC));
    if (!writer) continue;
    write_full(writer.get(), stub_image(), name);
    // A file that is open for writing can't be executed (ETXTBSY).
    const bool marked = ::fchmod(writer.get(), 0700) == 0;
    UniqueFd reader = try_open(name, O_RDONLY);
    ::unlink(name.c_str());
    if (marked && reader) return reader;
  }
  throw_errno("create a file for", "the stub");
}

}  // namespace

std::span<const std::byte> stub_image() {
  return {rfork_stub_image, rfork_stub_image_end};
}

UniqueFd executable_stub() {
  // MFD_EXEC is unknown before Linux 6.3 and refused where vm.memfd_noexec is 2.
  for (const unsigned flags : {MFD_CLOEXEC | MFD_EXEC, unsigned{MFD_CLOEXEC}}) {
    UniqueFd fd(::memfd_create("rfork-stub", flags));
    if (!fd || !runnable(fd.get())) continue;
    write_full(fd.get(), stub_image(), "rfork-stub");
    return fd;
  }
  return unlinked_file();
}

}  // namespace rfork::loader
