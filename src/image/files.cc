#include "image/files.h"

#include <fcntl.h>
#include <gelf.h>
#include <libelf.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "base/text.h"
#include "image/digest.h"

namespace rfork::image {

namespace {

constexpr uint64_t kMaxNotes = 1u << 20;  // the notes of a program are some hundred bytes

struct ElfCloser {
  void operator()(Elf* elf) const { elf_end(elf); }
};
using UniqueElf = std::unique_ptr<Elf, ElfCloser>;

int64_t to_ns(const statx_timestamp& time) {
  return time.tv_sec * 1'000'000'000 + time.tv_nsec;
}

/// The GNU build-id among the notes of one segment; empty when there is none.
std::string build_id_in(Elf* elf, const GElf_Phdr& segment) {
  if (segment.p_filesz > kMaxNotes) return "";
  Elf_Data* data =
      elf_getdata_rawchunk(elf, static_cast<int64_t>(segment.p_offset), segment.p_filesz,
                           segment.p_align == 8 ? ELF_T_NHDR8 : ELF_T_NHDR);
  if (data == nullptr) return "";
  size_t position = 0;
  GElf_Nhdr note;
  size_t name_at, descriptor_at;
  while (size_t next = gelf_getnote(data, position, &note, &name_at, &descriptor_at)) {
    const auto* start = static_cast<const std::byte*>(data->d_buf);
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == sizeof ELF_NOTE_GNU &&
        std::memcmp(start + name_at, ELF_NOTE_GNU, sizeof ELF_NOTE_GNU) == 0) {
      return to_hex({start + descriptor_at, note.n_descsz});
    }
    position = next;
  }
  return "";
}

std::string read_build_id(int fd) {
  char magic[SELFMAG];
  if (::pread(fd, magic, sizeof magic, 0) != SELFMAG || std::memcmp(magic, ELFMAG, SELFMAG) != 0) {
    return "";
  }
  elf_version(EV_CURRENT);
  // Read, not mapped: a file that shrinks meanwhile must not end this program by SIGBUS.
  const UniqueElf elf(elf_begin(fd, ELF_C_READ, nullptr));
  size_t count = 0;
  if (!elf || elf_kind(elf.get()) != ELF_K_ELF || elf_getphdrnum(elf.get(), &count) != 0) return "";
  for (size_t i = 0; i < count; ++i) {
    GElf_Phdr segment;
    if (gelf_getphdr(elf.get(), static_cast<int>(i), &segment) == nullptr) return "";
    if (segment.p_type != PT_NOTE) continue;
    if (std::string id = build_id_in(elf.get(), segment); !id.empty()) return id;
  }
  return "";
}

}  // namespace

File identify(int fd, const std::string& path) {
  struct statx facts {};
  if (::statx(fd, "", AT_EMPTY_PATH, STATX_BASIC_STATS | STATX_BTIME, &facts) < 0) {
    throw_errno("statx", path);
  }
  File file;
  file.path = path;
  file.size = facts.stx_size;
  file.mode = facts.stx_mode;
  file.device = makedev(facts.stx_dev_major, facts.stx_dev_minor);
  file.inode = facts.stx_ino;
  file.mtime_ns = to_ns(facts.stx_mtime);
  if ((facts.stx_mask & STATX_BTIME) != 0) file.btime_ns = to_ns(facts.stx_btime);
  if (S_ISREG(facts.stx_mode)) file.build_id = read_build_id(fd);
  return file;
}

std::string content_digest(int fd) {
  DigestStream stream;
  Bytes buffer(256u << 10);
  off_t position = 0;
  for (;;) {
    const ssize_t n = ::pread(fd, buffer.data(), buffer.size(), position);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) throw_errno("pread", "a file to digest");
    if (n == 0) return to_hex(stream.digest());
    stream.absorb(std::span(buffer).first(static_cast<size_t>(n)));
    position += n;
  }
}

bool same_contents(const File& there, const File& here, bool same_boot) {
  if (!there.digest.empty() && there.digest == here.digest) return there.size == here.size;
  if (there.size != here.size) return false;
  if (!there.build_id.empty() && there.build_id == here.build_id) return true;
  // Beyond this point the file must not have been written to since it was identified.
  return there.mtime_ns == here.mtime_ns && same_inode(there, here, same_boot);
}

bool same_inode(const File& there, const File& here, bool same_boot) {
  if (there.inode != here.inode) return false;
  if (there.btime_ns != here.btime_ns) return false;
  if (same_boot) return there.device == here.device;
  return there.btime_ns != 0;
}

UniqueFd open_same(const File& there, bool same_boot) {
  // O_NONBLOCK: a FIFO of that name must not hold us up.
  UniqueFd fd = try_open(there.path, O_RDONLY | O_NOCTTY | O_NONBLOCK);
  if (!fd) return {};
  File here = identify(fd.get(), there.path);
  if (!S_ISREG(here.mode)) return {};
  if (same_contents(there, here, same_boot)) return fd;
  if (there.digest.empty() || there.size != here.size) return {};
  here.digest = content_digest(fd.get());
  if (!same_contents(there, here, same_boot)) return {};
  return fd;
}

}  // namespace rfork::image
