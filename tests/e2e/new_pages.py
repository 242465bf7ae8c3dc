#!/usr/bin/python3
"""How a restored process gets its pages: new_pages.py placed|forbidden, as root (whose filters need no no_new_privs)

placed:    userfaultfd(2) is called: where it would kill, the restore breaks.
forbidden: where it fails, as in some containers, the child has its memory all the same.
"""

import ctypes
import os
import struct
import sys

import harness
from harness import expect

SCRIPT = """
import ctypes, hashlib, mmap, os, sys, time
MIB = 1 << 20
libc = ctypes.CDLL(None, use_errno=True)
maps = [mmap.mmap(-1, 3 * MIB) for _ in range(3)]
address = lambda one: ctypes.addressof(ctypes.c_char.from_buffer(one))
maps[0].write(os.urandom(3 * MIB))
maps[1].write(os.urandom(MIB + 4096))                  # the rest was never touched
maps[2].write(os.urandom(3 * MIB))
assert libc.mprotect(ctypes.c_void_p(address(maps[2])), ctypes.c_size_t(MIB), 1) == 0
digest = lambda: [hashlib.sha256(one).hexdigest() for one in maps]
before = digest()
print("ready", os.getpid(), flush=True)
while not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.01)
assert digest() == before
for one in maps[:2]:
    one[:] = bytes(len(one))                           # pages can be written, and new ones come
print("ok", flush=True)
"""

USERFAULTFD, LOAD, EQUAL, RETURN = 323, 0x20, 0x15, 0x06
ALLOW, KILL, EPERM = 0x7FFF0000, 0x80000000, 0x00050001


def filtered(action):
    """For a new process: what becomes of its userfaultfd(2)."""
    code = b"".join(struct.pack("HBBI", *one) for one in (
        (LOAD, 0, 0, 0), (EQUAL, 0, 1, USERFAULTFD), (RETURN, 0, 0, action), (RETURN, 0, 0, ALLOW)))
    program = ctypes.create_string_buffer(code)
    libc = ctypes.CDLL(None, use_errno=True)

    def install():
        filters = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 4, ctypes.addressof(program)))
        if libc.prctl(22, 2, ctypes.byref(filters), 0, 0) != 0:                  # PR_SET_SECCOMP, a filter
            raise OSError(ctypes.get_errno(), "seccomp")
    return install


def restored(world, action):
    """rfork-run of a copy, under a filter."""
    target = world.start([sys.executable, "-c", SCRIPT, world.folder])
    target.real_pid = int(target.line().split()[1])
    image = world.folder / "image.rfork"
    world.trace(target.real_pid, "-o", image).expect(0)
    child = world.start([world.program("rfork-run"), image], preexec_fn=filtered(action))
    world.go()
    target.wait().expect(0, out="ok\n")
    return child.wait()


def placed(world):
    with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="ascii") as file:
        if "[always]" in file.read():
            raise harness.Skip("huge pages are made unasked here")
    said = restored(world, KILL)
    expect(said.code != 0 and "ok" not in said.out, f"no userfaultfd(2) was called: {said}")


def forbidden(world):
    restored(world, EPERM).expect(0, out="ok\n")


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("skipped: a filter without no_new_privs needs root")
        sys.exit(77)
    harness.main({"placed": placed, "forbidden": forbidden}[sys.argv[1]])
