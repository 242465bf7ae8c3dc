// Named files by what identifies them, so that two hosts can agree on which of them both have.
#pragma once

#include <optional>
#include <string>

#include "base/unique_fd.h"
#include "image/model.h"

namespace rfork::image {

/// Facts of the open file `fd` under the name `path`; id is left 0. Reads the build-id note when it
/// is an ELF file. The digest stays empty. Throws Error when it can't be examined.
File identify(int fd, const std::string& path);

/// XXH3-128 of the whole contents, hexadecimal. Throws Error.
std::string content_digest(int fd);

/// Whether `here` is the same file as `there`, without reading contents: the very same inode of the
/// same boot, or inode, birth time, size and mtime alike (a file system that both hosts mount), or
/// an equal build-id and size. Equal digests say yes too; both must have one.
bool same_contents(const File& there, const File& here, bool same_boot);

/// Whether it is the same inode, whatever its contents have become since: what matters for a file
/// that is open for writing. Same boot: device and inode; else inode and birth time.
bool same_inode(const File& there, const File& here, bool same_boot);

/// Opens `there.path` here read-only if this host has a file with the same contents (computing the
/// digest here when `there` has one and the cheap tests don't decide). Empty UniqueFd when it has
/// not.
UniqueFd open_same(const File& there, bool same_boot);

}  // namespace rfork::image
