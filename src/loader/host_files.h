// Which files of this host stand for those of the image, and where the contents go that the image
// carries itself.
//
// Every descriptor here belongs to this process and is handed to the child later. Files are opened
// with the rights of the user that the child will be: the caller has seen to that.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/unique_fd.h"
#include "image/format.h"
#include "image/leases.h"
#include "loader/created_files.h"
#include "loader/findings.h"
#include "loader/own_files.h"
#include "loader/restore.h"

namespace rfork::loader {

/// Where an object's carried bytes go.
struct Sink {
  enum class Kind : uint8_t {
    skip,    ///< this host has them
    file,    ///< `fd`
    memory,  ///< at `address` + offset: a shared anonymous mapping made as such
  };
  Kind kind = Kind::skip;
  int fd = -1;
  uint64_t address = 0;
};

class HostFiles {
 public:
  /// Looks at everything that mappings, the executable and descriptions name; what is missing
  /// becomes reasons in `findings`.
  HostFiles(const image::Snapshot& snapshot, const Options& options, Findings& findings);

  /// What mmap(2) is to be given for a mapping of kind file or object; -1 for one that is made
  /// anonymous and shared.
  int mapping_fd(const image::Mapping& mapping) const;
  /// Where runs of object `id` go.
  Sink sink(uint32_t id) const;
  /// Descriptors of memfds and the seals that they get when all is written and mapped.
  std::vector<std::pair<int, uint32_t>> seals() const;
  /// The modes that new files get when all is written.
  const std::vector<FinalMode>& final_modes() const { return final_modes_; }
  /// The program's file, for the exe link; -1: can't be had.
  int executable() const { return executable_; }
  /// The same file open for writing, as long as which it can't be the program; -1: it isn't.
  int executable_writer() const { return executable_writer_; }
  /// Opens the file or contents of a description (kinds regular and contents) anew with `flags`;
  /// empty when that was refused.
  UniqueFd open_description(const image::Description& description);
  /// What stands for carried contents: of the named file `path`, or of an object. -1: nothing, or
  /// this host's own file.
  int contents_of(const std::string& path) const;
  int contents_of(uint32_t object) const;
  /// The image was taken under the kernel that runs here.
  bool same_boot() const { return same_boot_; }
  /// Closes what this process opened: the child has it, and who asks for a lease must be alone.
  void let_go();
  /// The names of created files appear.
  void keep() { created_.keep(); }
  CreatedFiles& created() { return created_; }

 private:
  struct Contents {
    UniqueFd fd;         ///< read and write; empty when this host's own file is used
    UniqueFd read_only;  ///< for mappings that may never write to it
    Sink sink;
    bool program = false;  ///< it is what the process runs
  };
  struct MappedFile {
    UniqueFd own;
    int read_only = -1;  ///< own or borrowed
    UniqueFd writable;   ///< for shared mappings that may write
  };

  struct Identity {  ///< of a file here
    uint64_t device = 0, inode = 0;
    std::string path;
  };

  void place_objects();
  void place_mappings();
  void place_executable();
  Contents carried_file(const image::Object& object);
  bool may_place(const image::File& there, bool& exists);
  Contents other_link(const image::File& there, bool replace);
  Contents unnamed(const image::Object& object);
  std::optional<uint64_t> as_shared_anonymous(const image::Object& object) const;
  UniqueFd open_here(const image::File& file, int flags) const;
  UniqueFd open_same_inode(const image::File& file) const;
  void stand_in(const image::File& file, const image::Object& pages, MappedFile& mapped);
  void find_file(const image::File& file, const image::Mapping& mapping);
  void find_writable(const image::File& file, bool must_write);
  UniqueFd open_named(const image::Description& description, const image::File& file, int flags);
  bool accept(std::string difference, bool accepted, std::string advice);
  bool check_same(const image::Description& description, const image::File& there, int fd);
  bool is_one_file(const image::File& there, int fd);
  bool is_program(const image::Object& object) const;
  bool would_break_lease(const std::string& path, int flags);
  void refuse_leased(const std::string& path, const std::string& holder);

  const image::Snapshot& snapshot_;
  const Options& options_;
  Findings& findings_;
  bool same_boot_ = false;
  image::Leases leases_;
  CreatedFiles created_;
  std::map<uint32_t, Contents> objects_;
  std::map<uint32_t, MappedFile> files_;
  std::map<uint32_t, const image::Object*> carried_files_;  ///< Object of kind file by File id
  std::map<uint32_t, const image::Object*> file_pages_;
  std::set<uint32_t> refused_files_;
  std::map<std::pair<uint64_t, uint64_t>, Identity> opened_;  ///< by device and inode at the origin
  std::vector<FinalMode> final_modes_;
  int executable_ = -1, executable_writer_ = -1;
};

/// open(2) flags of `flags` that are restored: access mode and status, never O_CREAT, O_TRUNC or
/// O_EXCL.
int reopen_flags(int flags);
/// The same open file with another access mode; empty when it can't be had.
UniqueFd reopen(int fd, int flags);

}  // namespace rfork::loader
