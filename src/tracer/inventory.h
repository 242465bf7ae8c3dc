// The files, contents and open descriptions that mappings and descriptors refer to, each once.
//
// Built twice: from a running process, to find out what stands in the way and to offer its files to
// the destination, and again from the frozen one. The second time the first one's digests are taken
// over for files that have not changed.
#pragma once

#include <sys/stat.h>
#include <sys/types.h>

#include <map>
#include <memory>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "base/unique_fd.h"
#include "image/model.h"
#include "tracer/capture.h"
#include "tracer/proc_text.h"

namespace rfork::tracer {

/// Where the bytes of an Object can be read.
struct ObjectSource {
  UniqueFd fd;  ///< empty: only through the process's own mappings
  uint64_t device = 0, inode = 0;
  UniqueFd holes;  ///< without `fd`: tells where there is nothing; empty: that can't be known
};

class IpcNamespace;

struct Inventory {
  std::vector<image::File> files;
  std::vector<image::Object> objects;
  std::map<uint32_t, ObjectSource> object_sources;  ///< by Object id
  std::vector<image::Description> descriptions;
  std::vector<image::Descriptor> descriptors;
  std::vector<image::Mapping> mappings;
  std::set<uint32_t> open_files;  ///< File ids that descriptors or writable shared mappings name:
                                  ///< contents matter as a whole
  std::set<uint32_t> written_files;     ///< those of them that the process may write
  std::set<uint32_t> mapped_files;      ///< File ids that mappings or the executable name
  std::map<uint32_t, int> own_readers;  ///< File ids under a write lease of the process, or that we
                                        ///< may not open: read through that descriptor of its
  uint32_t executable = 0;
  bool executable_deleted = false;
  std::map<uint32_t, UniqueFd> relays;          ///< the process's own end, by Description id
  std::map<dev_t, uint32_t> relayed_terminals;  ///< Description id by terminal
  std::vector<UniqueFd> connections;  ///< of a move into a file: TCP connections with itself
  std::vector<KeptSocket> kept;       ///< of a move into a file, or with new sockets there: TCP
                                      ///< connections to elsewhere
  std::set<ino_t> own_channels;       ///< pipes and sockets that nobody else has
  std::vector<Reason> obstacles;      ///< what can't be carried
  std::vector<std::string> notes;     ///< what is lost, and the program goes on without
  std::vector<SmapsEntry> smaps;      ///< what the flags of `mappings` were taken from
  std::shared_ptr<IpcNamespace> ipc_namespace;  ///< of the process, if it has SysV segments
};

/// What a running or stopped process has of /proc/PID/maps, smaps and fd.
struct InventoryInput {
  pid_t pid = 0;
  std::vector<MapsLine> maps;
  std::vector<SmapsEntry> smaps;  ///< of the same ranges; a mapping without its entry has no flags
  std::set<int> drop_fds;
  bool drop_locks = false;
  bool move = false, into_file = false, drop_connections = false, keep_tcp = false;
  bool remade = false;  ///< connections to elsewhere get new sockets
  bool relay = false, relay_input = false;
  bool forked = false;                 ///< what it shares with others is no obstacle
  bool leave_children = false;         ///< what it shares with its descendants is none
  bool own_segments = false;           ///< SysV segments that it shares are none
  bool glance = false;                 ///< nobody will take what is found
  const Inventory* earlier = nullptr;  ///< digests are taken from there; the process is stopped
  pid_t copy = 0;                      ///< a copy of the process that was made for us; 0: none
};

/// Of process `pid`. Throws Error.
std::vector<SmapsEntry> read_smaps(pid_t pid);
Inventory take_inventory(const InventoryInput& input);
/// Takes the flags of the mappings from `smaps` again, and adds the obstacles that they show.
void refresh_flags(Inventory& inventory, const std::vector<SmapsEntry>& smaps);

// The parts, one file each.

/// The File for the open `fd` named `path` (found by device and inode, or added).
uint32_t add_file(Inventory& inventory, const Inventory* earlier, int fd, const std::string& path);
/// The Object for contents with that inode (found or added). `fd` (may be empty) reads them.
uint32_t add_object(Inventory& inventory, image::Object object, uint64_t device, uint64_t inode,
                    UniqueFd fd);
void add_mappings(Inventory& inventory, const InventoryInput& input);
void add_descriptors(Inventory& inventory, const InventoryInput& input);
/// The process's own descriptor `fd`, for us. Empty with errno set.
UniqueFd duplicate_descriptor(pid_t pid, int fd);
/// Opens `path` as process `pid` sees it, read-only. Empty with errno set.
UniqueFd open_in_process(pid_t pid, const std::string& path, int flags);

}  // namespace rfork::tracer
