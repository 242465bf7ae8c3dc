#!/usr/bin/python3
"""SysV shared memory beyond what mem_sysv shows of itself: sysv.py CASE root|user (owned as root only, no-ids as user).

here:    moved into a file and restored: the segments are in the same IPC namespace, with ids, keys, modes and owners,
         and the original has left none.
owned:   the same of another user's, by root.
away:    a copy has segments of its own, in a namespace of its own; both go on.
moved:   to a daemon under the same kernel: the very segments, and none is left or doubled.
shared:  what another process has attached is refused by name, and --own-segments accepts it.
failed:  a restore that ends in the middle leaves no segment.
no-ids:  where neither ids nor namespaces can be had it is refused before anything is made; --drop-attributes accepts other ids.
"""

import os
import pathlib
import signal
import subprocess
import sys

import harness
from harness import CANNOT_CARRY, REFUSED, expect

PROGRAM = """
import ctypes, os, signal, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.shmat.restype = ctypes.c_void_p
libc.shmat.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_int]
key, size = int(sys.argv[2]), int(sys.argv[3])
segment = libc.shmget(key, size, 0o1640 if key else 0o1600)
assert segment >= 0, os.strerror(ctypes.get_errno())
at = libc.shmat(segment, None, 0)
if size > 1 << 20:
    ctypes.memset(at, 0x5a, size)
text = ctypes.cast(at, ctypes.POINTER(ctypes.c_char))
text[0] = b"1"
if len(sys.argv) > 4:    # somebody else has it, too
    if os.fork() == 0:
        if os.fork() == 0:
            while not os.path.exists(sys.argv[1] + "/go"):
                time.sleep(0.01)
            os._exit(0)
        os._exit(0)
    os.wait()
print("ready", os.getpid(), flush=True)
while not os.path.exists(sys.argv[1] + "/go"):
    time.sleep(0.01)
assert text[0] == b"1", text[0]
text[0] = b"2"
again = libc.shmat(segment, None, 0)
assert ctypes.cast(again, ctypes.POINTER(ctypes.c_char))[0] == b"2"
if key:
    assert libc.shmget(key, 0, 0) == segment
assert libc.shmctl(segment, 0, None) == 0
print("ok", flush=True)
"""
KEY = 0x5246


def table():
    """{id: (key, mode, size, attached, uid)} of this IPC namespace."""
    lines = pathlib.Path("/proc/sysvipc/shm").read_text().splitlines()[1:]
    rows = [line.split() for line in lines]
    return {int(row[1]): (int(row[0]), int(row[2], 8), int(row[3]), int(row[6]), int(row[7])) for row in rows}


def start(world, key=KEY, size=100, *more, before=()):
    program = world.start([*before, "/usr/bin/python3", "-c", PROGRAM, world.folder, key, size, *more])
    line = program.line()
    expect(line.startswith("ready "), f"{line} {program}")
    program.real_pid = int(line.split()[1])
    return program


def owner(world):
    return harness.ORDINARY if world.user else 0


def moved_into_file(world, *arguments, original=None):
    original = original or start(world, *arguments)
    before = table()
    image = world.folder / "image.rfork"
    world.trace(original.real_pid, "--move", "--no-ghost", "-o", image).expect(0)
    expect(original.wait().code == -signal.SIGKILL, f"{original}")
    return image, before


def here(world):
    image, before = moved_into_file(world)
    expect(table() == {}, f"the original has left {table()}")
    expect(len(before) == 1 and list(before.values()) == [(KEY, 0o640, 100, 1, owner(world))], f"{before}")
    copy = world.start([world.program("rfork-run"), image])
    if world.root:
        harness.wait_until(lambda: table() == before, lambda: f"{before} are here: {table()}")
    world.go()
    said = copy.wait().expect(0, out="ok\n")
    expect(table() == {}, f"left: {table()}")
    # An ordinary user may not choose ids here.
    expect(("IPC namespace of the child's own" in said.err) == (not world.root), f"{said}")


def owned(world):
    """Root restores another user's: who made them and whose they are is that user."""
    world.folder.chmod(0o755)
    drop = ["setpriv", f"--reuid={harness.ORDINARY}", f"--regid={harness.ORDINARY}", "--clear-groups"]
    image, _ = moved_into_file(world, original=start(world, before=drop))
    copy = world.start([world.program("rfork-run"), image])
    harness.wait_until(lambda: [row[:3] for row in table().values()] == [(KEY, 0o640, 100)], "it is here")
    made = pathlib.Path("/proc/sysvipc/shm").read_text().splitlines()[1].split()[7:11]
    expect(made == [str(harness.ORDINARY)] * 4, f"uid, gid, cuid, cgid are {made}")
    world.go()
    copy.wait().expect(0, out="ok\n")
    expect(table() == {}, f"left: {table()}")


def away(world):
    original = start(world)
    image = world.folder / "image.rfork"
    world.trace(original.real_pid, "-o", image).expect(0)
    copies = [world.start([world.program("rfork-run"), image]) for _ in range(2)]
    harness.wait_until(lambda: len(running_stubs(copies)) == 0, "the copies run")
    world.go()
    original.wait().expect(0, out="ok\n")
    for copy in copies:
        copy.wait().expect(0, out="ok\n", err=f"(key {KEY:#x}) is in an IPC namespace of the child's own")
    expect(table() == {}, f"left: {table()}")


def running_stubs(copies):
    """rfork-run's that have no child yet which is the program."""
    def runs(copy):
        fresh = {copy.pid}
        while fresh:
            pid = fresh.pop()
            if "python3" in comm(pid):
                return True
            fresh |= set(harness.children_of(pid))
        return False
    return [copy for copy in copies if copy.running() and not runs(copy)]


def comm(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text()
    except OSError:
        return ""


def moved(world):
    daemon = harness.Daemon(world, None)
    original = start(world)
    before = table()
    world.trace(original.real_pid, "--move", "--no-ghost", daemon.address, key=daemon.key).expect(0)
    expect(table() == before, f"{before} became {table()}")
    child = daemon.child_id()
    world.go()
    daemon.finished(child).expect(0, out="ok\n")
    expect(table() == {}, f"left: {table()}")


def shared(world):
    original = start(world, KEY, 100, "shared")
    image = world.folder / "image.rfork"
    said = world.trace(original.real_pid, "-o", image)
    expect(said.code == CANNOT_CARRY, f"{said}")
    for text in ("SysV segment", f"(key {KEY:#x})", "python3", "has attached too", "--own-segments"):
        expect(text in said.err, f"no word of {text}: {said}")
    expect(not image.exists(), "an image was written")
    checked = world.trace("--check", original.real_pid, "-o", image)
    expect("--own-segments" in checked.out, f"{checked}")
    world.trace(original.real_pid, "-o", image, "--own-segments").expect(0)
    copy = world.start([world.program("rfork-run"), image])
    harness.wait_until(lambda: not running_stubs([copy]), "the copy runs")
    world.go()
    for process in (original, copy):
        process.wait().expect(0, out="ok\n")
    harness.wait_until(lambda: table() == {}, lambda: f"left: {table()}")


def failed(world):
    """Cut images, and restorers that are killed."""
    image, _ = moved_into_file(world, KEY, 32 << 20)
    whole = image.read_bytes()
    expect(len(whole) > 32 << 20, f"the image has {len(whole)} bytes")
    for part in (3, 2):
        cut = world.folder / "cut.rfork"
        cut.write_bytes(whole[:len(whole) * (part - 1) // part])
        with open(cut, "rb") as stream:
            # Through a pipe, so that the segments are made before the end is seen.
            feeder = subprocess.Popen(["cat"], stdin=stream, stdout=subprocess.PIPE)
            said = world.run([world.program("rfork-run"), "-"], stdin=feeder.stdout)
            feeder.stdout.close()
            feeder.wait()
        expect(said.code == harness.BAD_IMAGE, f"{said}")
        expect(table() == {}, f"left: {table()}")
    for size in (1, 2):
        reading, writing = os.pipe()
        restorer = world.start([world.program("rfork-run"), "-"], stdin=reading)
        os.close(reading)
        with open(writing, "wb") as pipe:
            pipe.write(whole[:len(whole) * size // 3])
            pipe.flush()
            if world.root:
                harness.wait_until(lambda: len(table()) == 1, "its segment is made")
            restorer.kill()
        harness.wait_until(lambda: table() == {}, lambda: f"left: {table()}")
    expect(world.run([world.program("rfork-dump"), image]).expect(0).out != "", "no words")


def no_ids(world):
    """In a user namespace that may have no IPC namespaces."""
    wrapper = ["unshare", "--user", "--map-current-user", "--keep-caps", "sh", "-c",
               'echo 0 > /proc/sys/user/max_ipc_namespaces && exec "$@"', "sh"]
    if world.run([*wrapper, "true"]).code != 0:
        raise harness.Skip("no user namespace can be made here")
    original = start(world)
    daemon = harness.Daemon(world, None, program=[*wrapper, world.program("rforkd")])
    said = world.trace(original.real_pid, daemon.address, key=daemon.key)
    expect(said.code == REFUSED and f"(key {KEY:#x}) can't be made here: its key is taken" in said.err, f"{said}")
    image, before = moved_into_file(world, original=original)
    said = world.run([*wrapper, world.program("rfork-run"), image])
    expect(said.code == REFUSED, f"{said}")
    for text in (f"SysV segment {list(before)[0]} (key {KEY:#x})", "id", "--drop-attributes"):
        expect(text in said.err, f"no word of {text}: {said}")
    expect(table() == {}, f"left: {table()}")
    copy = world.start([*wrapper, world.program("rfork-run"), "--drop-attributes", image])
    harness.wait_until(lambda: [row[3] for row in table().values()] == [1] or not copy.running(), "another is here")
    if not copy.running():
        raise harness.Failed(f"{copy.wait()}")
    expect(list(table()) != list(before), f"it has its id: {table()}")
    expect([row[:3] for row in table().values()] == [row[:3] for row in before.values()], f"{before}: {table()}")
    world.go()
    copy.wait().expect(-signal.SIGSEGV, err="has another id here")    # the program doesn't find its old one


CASES = {"here": here, "away": away, "moved": moved, "owned": owned, "shared": shared, "failed": failed, "no-ids": no_ids}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")
