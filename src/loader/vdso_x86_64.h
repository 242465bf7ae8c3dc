// The vDSO: this kernel's, the image's, and how the child gets one at the address that it
// remembers.
//
// libc keeps pointers to functions in the vDSO, so code must be at the old addresses. When the
// image's vDSO is byte for byte this kernel's, this kernel's is moved there. Else the image's vDSO
// stays as plain code, with each function's first bytes replaced by a jump to this kernel's
// function of the same name.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "base/io.h"
#include "image/model.h"

namespace rfork::loader {

/// A special mapping of the kernel beside its vDSO, or the vDSO itself.
struct SpecialMapping {
  std::string name;  ///< "[vvar]", "[vvar_vclock]", "[vdso]"
  int64_t from_vdso = 0;
  uint64_t size = 0;
  bool operator==(const SpecialMapping&) const = default;
};

/// This kernel's, as every process of it has them (a time namespace changes contents of vvar, not
/// the layout).
struct KernelVdso {
  std::vector<SpecialMapping> layout;  ///< by address
  Bytes code;                          ///< contents of [vdso]
};
KernelVdso kernel_vdso();

/// Those of an image: mappings of kind vvar and vdso, by address; empty when it has no vDSO.
std::vector<SpecialMapping> special_layout(std::span<const image::Mapping> mappings);

/// Where the ELF file in `code` ends (section headers included); nullopt when it is none. Beyond it
/// there are zeros, or what an earlier restore put there.
std::optional<uint64_t> elf_end(std::span<const std::byte> code);

/// Whether both are the same program.
bool same_vdso(std::span<const std::byte> a, std::span<const std::byte> b);

/// Offsets of the functions in a vDSO by their name ("__vdso_time"). Checks everything that it
/// follows.
std::map<std::string, uint64_t> vdso_functions(std::span<const std::byte> code);

/// Bytes to be written over an image's vDSO.
struct CodePatch {
  uint64_t offset = 0;
  Bytes bytes;
};
/// Makes every function of `there` go to the one of that name in this kernel's vDSO `here`, which
/// lies at `here_address`; one that this kernel lacks becomes the plain system call.
std::vector<CodePatch> redirect_vdso(std::span<const std::byte> there,
                                     std::span<const std::byte> here, uint64_t here_address);

/// The instructions by which a thread leaves the hole (see rfork_stub_leave): it counts itself out,
/// the last one unmaps the hole, then rt_sigreturn. They lie where they can stay: in the zeros
/// behind the vDSO's ELF file.
Bytes exit_code();
/// Offset of room for exit_code() in this kernel's vDSO; nullopt when there is none.
std::optional<uint64_t> room_for_exit_code(std::span<const std::byte> vdso);

}  // namespace rfork::loader
