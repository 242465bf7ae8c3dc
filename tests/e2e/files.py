#!/usr/bin/python3
"""Files that became something else between capture and restore: files.py CASE root|user

replaced    another file has the name: refused, not opened
cut         the file is shorter: refused with both sizes; --changed-files goes on with it as it is
changed     the destination has another version
grown       the file is longer: said
rewritten   it has the same size, and was written: said
kind        a FIFO has the name of a file: refused at once
mapped-cut  a file that is only mapped is shorter
own-rights  files that root had opened before it became another user: root opens them again
long-path   a file and a working directory whose paths are longer than the kernel tells: refused
fifo        a FIFO that nobody has open any more gets its contents back; one that is gone is made
one-end     a FIFO of which the process has the reading end only
no-writer   a FIFO that nobody has written to since it was opened: its end isn't told before there was a writer
fifo-away   a FIFO whose writer is gone, on another host: what is in it, and its end
made        what the destination lacks gets its modes and times, also directories on the way, and symbolic links
links       two names of a file that the destination lacks, one of which it has, and that are two files there
watches     a watched file that is gone: its watch ends as if the file had been deleted now
marks       a file marked by fanotify that is gone: said; unread events become FAN_Q_OVERFLOW, and no others
tail        tail -f
streams     standard streams that were one: a terminal is the caller's three, `2>&1` stays as it is
many        nearly half as many descriptors as the hard limit allows, most of one file
"""

import os
import pty
import stat
import subprocess
import sys
import time

import harness
from harness import REFUSED, expect


PREAMBLE = """
import ctypes, os, select, struct, sys, time
def ready():
    print("ready", flush=True)
    while not os.path.exists("go"): time.sleep(0.01)
"""


def start(world, code, host=None, **options):
    """A Python program that says when it is ready, and goes on when FOLDER/go is there."""
    program = world.start(["/usr/bin/python3", "-c", PREAMBLE + code], host, **options)
    expect(program.line().startswith("ready"), "it isn't ready")
    return program


def capture(world, program):
    """Into a file; the original is gone then."""
    image = world.folder / "image.rfork"
    world.trace(program.pid, "--move", "-o", image).expect(0)
    program.wait()
    return image


def restore(world, image, *options):
    return world.run([world.program("rfork-run"), *options, image])


READ_FILE = """
fd = os.open("data", os.O_RDWR)
os.read(fd, 2)
ready()
print(os.read(fd, 100).decode())
"""


def replaced(world):
    (world.folder / "data").write_text("original")
    own(world, "data")
    image = capture(world, start(world, READ_FILE))
    os.rename(world.folder / "data", world.folder / "elsewhere")
    (world.folder / "data").write_text("another")
    own(world, "data")
    world.go()
    restore(world, image).refused(REFUSED, "data", "other contents")
    expect((world.folder / "data").read_text() == "another", "it was changed")
    restore(world, image, "--changed-files").expect(0, out="other\n", err="data")
    expect((world.folder / "data").read_text() == "another", "it was changed")


def cut(world):
    (world.folder / "data").write_text("original")
    own(world, "data")
    image = capture(world, start(world, READ_FILE))
    os.truncate(world.folder / "data", 4)
    world.go()
    restore(world, image).refused(REFUSED, "data", "from 8 to 4 bytes", "--changed-files")
    restore(world, image, "--changed-files").expect(0, out="ig\n", err="from 8 to 4 bytes")


def grown(world):
    (world.folder / "data").write_text("original")
    own(world, "data")
    image = capture(world, start(world, READ_FILE))
    with open(world.folder / "data", "a", encoding="utf-8") as file:
        file.write(" and more")
    world.go()
    restore(world, image).expect(0, out="iginal and more\n", err="from 8 to 17 bytes")


def kind(world):
    (world.folder / "data").write_text("original")
    own(world, "data")
    code = "fd, path = os.open('data', os.O_RDWR), os.open('data', os.O_PATH)\nready()\n"
    image = capture(world, start(world, code))
    (world.folder / "data").unlink()
    os.mkfifo(world.folder / "data", 0o600)
    own(world, "data")
    for options in [], ["--overwrite-files"]:
        restore(world, image, *options).refused(REFUSED, "data is another kind of file here")


def mapped_cut(world):
    code = """
import mmap
with open("data", "r+") as file: memory = mmap.mmap(file.fileno(), 0)
for fd in range(3, 20):
    try:
        if os.readlink(f"/proc/self/fd/{fd}").endswith("/data"): os.close(fd)
    except OSError: pass
ready()
print(memory[:4], len(memory))
"""
    (world.folder / "data").write_bytes(b"data" + bytes(100_000))
    own(world, "data")
    image = capture(world, start(world, code))
    os.truncate(world.folder / "data", 4)
    world.go()
    says = "mapped file", "data was cut from 100004 to 4 bytes"
    restore(world, image).refused(REFUSED, *says, "--changed-files")
    restore(world, image, "--changed-files").expect(0, out="b'data' 100004\n", err=says[1])


def own_rights(world):
    code = f"""
os.mkdir("private", 0o700)
log, secret = (os.open("private/" + name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600) for name in ("log", "secret"))
os.write(log, b"before ")
os.setgid({harness.ORDINARY})
os.setuid({harness.ORDINARY})
os.write(log, b"then ")
ready()
os.write(log, b"after")
print(os.pread(log, 99, 0), os.getuid() == {harness.ORDINARY})
"""
    world.folder.chmod(0o755)
    image = capture(world, start(world, code))
    world.go()
    restore(world, image).expect(0, out="b'before then after' True\n")


def long_path(world):
    code = """
name = "d" * 200
folder = os.open(".", os.O_RDONLY)
for depth in range(25):
    os.mkdir(name, dir_fd=folder)
    folder, above = os.open(name, os.O_RDONLY, dir_fd=folder), folder
    os.close(above)
CHANGE
print("ready", flush=True)
time.sleep(1000)
"""
    for change, says in (("file = os.open('f', os.O_RDWR | os.O_CREAT, dir_fd=folder); os.close(folder)", "descriptor"),
                         ("os.fchdir(folder); os.close(folder)", "its working directory")):
        program = start(world, code.replace("CHANGE", change))
        world.trace(program.pid, "-o", world.folder / "image.rfork").refused(
            harness.CANNOT_CARRY, f"{says}", "has a longer path than the kernel tells")
        expect(program.running(), "it has ended")
        program.kill()
        subprocess.run(["rm", "-rf", world.folder / ("d" * 200)], check=True)


def rewritten(world):
    (world.folder / "data").write_text("original")
    own(world, "data")
    image = capture(world, start(world, READ_FILE))
    time.sleep(0.01)  # the clock of files is coarse
    (world.folder / "data").write_text("ORIGINAL")
    world.go()
    restore(world, image).expect(0, out="IGINAL\n", err="data was written since the capture")


def changed(world):
    """The destination has another version of an open file: refused before the freeze, or taken as it is there."""
    here, there = world.two_hosts()
    folder = world.folder / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    (folder / "data").write_text("original")
    own(world, "folder/data")
    there.call("mount", "-t", "tmpfs", "other", str(folder))
    there.call("sh", "-c", f"echo -n another > {folder}/data && chmod 666 {folder}/data")
    daemon = harness.Daemon(world, there)
    program = start(world, READ_FILE.replace("data", "folder/data"), host=here)
    to = {"host": here, "key": daemon.key}
    name = str(folder / "data")
    says = f"{name} exists there with other contents; --overwrite-files replaces it by the origin's, --changed-files takes"
    world.trace(program.pid, daemon.address, **to).refused(REFUSED, says)
    said = world.trace(program.pid, "--check", "--json", daemon.address, **to).expect(REFUSED).json()
    expect([reason["what"] for reason in said["reasons"]] == [f"{name} exists there with other contents"], f"{said}")
    world.trace(program.pid, "--check", "--changed-files", daemon.address, **to).expect(0, out=f"{name} is another file")
    said = world.trace(program.pid, "--verbose", "--changed-files", daemon.address, **to)
    said.expect(0, err=f"{name} is another file here (7 bytes) than the one that was open (8 bytes)")
    child = daemon.child_id()
    world.go()
    program.wait().expect(0, out="iginal\n")
    daemon.finished(child).expect(0, out="other\n")


def fifo(world):
    code = """
for name in "kept", "gone": os.mkfifo(name, 0o640)
fds = [os.open(name, os.O_RDWR | os.O_NONBLOCK) for name in ("kept", "gone")]
for fd in fds: os.write(fd, b"contents")
ready()
for fd in fds: print(os.read(fd, 100).decode())
os.write(os.open("gone", os.O_WRONLY), b"by name")
print(os.read(fds[1], 100).decode())
"""
    image = capture(world, start(world, code))
    os.unlink(world.folder / "gone")
    world.go()
    restore(world, image).expect(0, out="contents\ncontents\nby name\n")
    status = os.stat(world.folder / "gone")
    expect(stat.S_ISFIFO(status.st_mode) and status.st_mode & 0o777 == 0o640, f"{status}")


def one_end(world):
    code = """
os.mkfifo("inbox")
reader = os.open("inbox", os.O_RDONLY | os.O_NONBLOCK)
writer = os.open("inbox", os.O_WRONLY)
os.write(writer, b"left")
os.close(writer)
ready()
print(os.read(reader, 100).decode(), os.read(reader, 100).decode() == "")
writer = os.open("inbox", os.O_WRONLY)
os.write(writer, b"sent")
print(os.read(reader, 100).decode())
"""
    image = capture(world, start(world, code))
    world.go()
    restore(world, image).expect(0, out="left True\nsent\n")


def no_writer(world):
    code = """
os.mkfifo("inbox")
reader = os.open("inbox", os.O_RDONLY | os.O_NONBLOCK)
poll = select.poll()
poll.register(reader, select.POLLIN)
before = poll.poll(0)
ready()
print(before, poll.poll(0), os.read(reader, 9))
writer = os.open("inbox", os.O_WRONLY)
print(poll.poll(0))
os.write(writer, b"x")
os.close(writer)
print(poll.poll(0) == [(reader, select.POLLIN | select.POLLHUP)], os.read(reader, 9), os.read(reader, 9))
"""
    image = capture(world, start(world, code))
    world.go()
    restore(world, image).expect(0, out="[] [] b''\n[]\nTrue b'x' b''\n")


def elsewhere(world):
    """Two hosts of which the second lacks FOLDER/folder, its daemon, and how rfork-trace gets there."""
    here, there = world.two_hosts()
    folder = world.folder / "folder"
    folder.mkdir()
    folder.chmod(0o777)
    there.call("mount", "-t", "tmpfs", "other", str(folder))
    there.call("chmod", "777", str(folder))
    daemon = harness.Daemon(world, there)
    return there, daemon, {"host": here, "key": daemon.key}


def fifo_away(world):
    _, daemon, to = elsewhere(world)
    code = """
os.mkfifo("folder/inbox", 0o640)
reader = os.open("folder/inbox", os.O_RDONLY | os.O_NONBLOCK)
writer = os.open("folder/inbox", os.O_WRONLY)
os.write(writer, b"left")
os.close(writer)
poll = select.poll()
poll.register(reader, select.POLLIN)
ready()
print(poll.poll(0) == [(reader, select.POLLIN | select.POLLHUP)], os.read(reader, 100), os.read(reader, 100))
print(oct(os.stat("folder/inbox").st_mode))
"""
    program = start(world, code, host=to["host"])
    world.trace(program.pid, "--move", *([] if world.root else ["--no-ghost"]), daemon.address, **to).expect(0)
    child = daemon.child_id()
    world.go()
    ended = program.wait() if world.root else daemon.finished(child)
    ended.expect(0, out="True b'left' b''\n0o10640\n")


MADE = """
os.umask(0)
os.makedirs("folder/deep/down", 0o750)
os.chmod("folder/deep", 0o1711)
os.chdir("folder/deep/down")
file = os.open("file", os.O_RDWR | os.O_CREAT)
os.write(file, b"contents")
os.fchmod(file, 0o6440)
os.utime(file, ns=(5, 1_100_000_000_000_000_007))
os.symlink("nowhere", "link")
link = os.open("link", os.O_PATH | os.O_NOFOLLOW)
os.mkdir("open", 0o700)
opened = os.open("open", os.O_RDONLY)
os.chdir("../../..")
ready()
os.chdir("folder/deep/down")
status = os.fstat(file)
print(oct(status.st_mode), status.st_mtime_ns, os.pread(file, 9, 0), os.pwrite(file, b"C", 0))
print(os.readlink("", dir_fd=link), os.readlink("link"), oct(os.fstat(link).st_mode))
print([oct(os.stat(name).st_mode) for name in ("..", ".", "open")])
"""


def made(world):
    """The program's own directory is on both hosts."""
    _, daemon, to = elsewhere(world)
    program = start(world, MADE, host=to["host"])
    world.trace(program.pid, daemon.address, **to).expect(0)
    child = daemon.child_id()
    world.go()
    out = ("0o106440 1100000000000000007 b'contents' 1\nnowhere nowhere 0o120777\n"
           "['0o41711', '0o40750', '0o40700']\n")
    program.wait().expect(0, out=out)
    daemon.finished(child).expect(0, out=out)


LINKS = """
for name in "one", "two":
    if os.path.exists("folder/" + name): os.unlink("folder/" + name)
with open("folder/one", "w") as file: file.write("data")
os.link("folder/one", "folder/two")
one, two = os.open("folder/one", os.O_RDWR), os.open("folder/two", os.O_RDWR)
ready()
os.write(one, b"DA")
same = os.path.samestat
print(os.read(two, 9), os.fstat(one).st_nlink, same(os.fstat(one), os.fstat(two)), same(os.stat("folder/one"), os.stat("folder/two")))
"""


def links(world):
    there, daemon, to = elsewhere(world)
    children = []
    for files in "", "one", "two", "one two":
        there.call("sh", "-c", f"cd {world.folder}/folder; rm -f one two; for i in {files}; do printf data > $i; chmod 666 $i; done")
        program = start(world, LINKS, host=to["host"])
        if files == "one two":
            world.trace(program.pid, daemon.address, **to).refused(REFUSED, "one and", "two are two files here, and were one")
        else:
            world.trace(program.pid, daemon.address, **to).expect(0)
            children.append(daemon.child_id(known=children))
        world.go()
        program.wait().expect(0, out="b'DAta' 2 True True\n")
        if files != "one two":
            daemon.finished(children[-1]).expect(0, out="b'DAta' 2 True True\n")
        (world.folder / "go").unlink()


def watches(world):
    code = """
libc = ctypes.CDLL(None)
fd = libc.inotify_init1(os.O_NONBLOCK)
for name in "kept", "gone": open(name, "w").close()
assert libc.inotify_add_watch(fd, b"kept", 2) == 1
assert libc.inotify_add_watch(fd, b"gone", 2) == 2
ready()
print(struct.unpack("iIII", os.read(fd, 16)))
os.write(os.open("kept", os.O_WRONLY), b"x")
print(struct.unpack("iIII", os.read(fd, 16)))
"""
    image = capture(world, start(world, code))
    os.unlink(world.folder / "gone")
    world.go()
    restore(world, image).expect(0, out="(2, 32768, 0, 0)\n(1, 2, 0, 0)\n", err="gone, which was watched")


def marks(world):
    code = """
libc = ctypes.CDLL(None)
MODIFY, CREATE, REPORT_FID, REPORT_DFID_NAME, NONBLOCK = 2, 0x100, 0x200, 0xc00, 2
def group(flags, mask, *names):
    fd = libc.fanotify_init(flags | NONBLOCK, os.O_RDONLY)
    assert fd >= 0
    for name in names: assert libc.fanotify_mark(fd, 1, ctypes.c_uint64(mask), -100, name.encode()) == 0
    return fd
def told(fd):
    try: data = os.read(fd, 4096)
    except BlockingIOError: return []
    masks = []
    while data:
        masks.append(struct.unpack_from("Q", data, 8)[0])
        data = data[struct.unpack_from("I", data)[0]:]
    return masks
os.mkdir("folder")
for name in "kept", "gone": open(name, "w").close()
quiet = group(REPORT_FID, MODIFY, "kept", "gone")
busy = group(REPORT_DFID_NAME, CREATE, "folder")
open("folder/unread", "w").close()
ready()
print(told(quiet), told(busy), told(busy))
os.write(os.open("kept", os.O_WRONLY), b"x")
open("folder/other", "w").close()
print(told(quiet), told(busy))
"""
    image = capture(world, start(world, code))
    os.unlink(world.folder / "gone")
    world.go()
    restore(world, image).expect(0, out="[] [16384] []\n[2] [256]\n", err="gone, which was watched, isn't here")


def tail(world):
    """tail -f of coreutils goes on telling what is written."""
    log = world.folder / "log"
    log.write_text("first\n")
    own(world, "log")
    follower = world.start(["tail", "-f", log])
    expect(follower.line() == "first", "it says nothing")
    image = world.folder / "image.rfork"
    world.trace(follower.pid, "-o", image).expect(0)
    follower.kill()
    copy = world.start([world.program("rfork-run"), image])
    subprocess.run(world.drop + ["sh", "-c", "sleep 0.5; echo second >> log"], cwd=world.folder, check=True)
    expect(copy.line() == "second", "it doesn't go on")


def streams(world):
    code = """
copied = os.dup(1)
ready()
for fd, word in (1, b"out"), (2, b"err"), (copied, b"copied"): os.write(fd, word + b" ")
os.write(1, sys.stdin.readline().encode())
"""
    image = capture(world, start(world, code, stderr=subprocess.STDOUT))
    world.go()
    restore(world, image).expect(0, out="out err copied ")
    master, terminal = pty.openpty()
    (world.folder / "go").unlink()
    program = world.start(["/usr/bin/python3", "-c", PREAMBLE + code], stdin=terminal, stdout=terminal, stderr=terminal)
    expect(os.read(master, 100).startswith(b"ready"), "it isn't ready")
    image = capture(world, program)
    os.close(terminal)
    os.close(master)
    world.go()
    (world.folder / "input").write_text("from a file\n")
    with open(world.folder / "input", encoding="ascii") as file:
        ended = world.run([world.program("rfork-run"), image], stdin=file)
    ended.expect(0, out="out copied from a file\n")
    expect(ended.err.endswith("err "), f"its standard error is {ended.err!r}")


def many(world):
    code = """
fds = [os.open("data", os.O_RDONLY) if i % 4 else os.eventfd(i) for i in range(900)]
for i, fd in enumerate(fds):
    if i % 4: os.lseek(fd, i % 8, os.SEEK_SET)
copies = [os.dup(fd) for fd in fds[:20]]
ready()
print(all(os.read(fd, 8) == (struct.pack("Q", i) if i % 4 == 0 else b"0123456789"[i % 8:][:8])
          for i, fd in enumerate(fds) if i != 0))
print(all(os.lseek(copies[i], 0, os.SEEK_CUR) == 10 for i in range(20) if i % 4 > 1))
"""
    (world.folder / "data").write_text("0123456789")
    own(world, "data")
    limit = ["prlimit", "--nofile=2000:2000"]
    program = world.start([*limit, "/usr/bin/python3", "-c", PREAMBLE + code])
    expect(program.line().startswith("ready"), "it isn't ready")
    image = capture(world, program)
    world.go()
    world.run([*limit, world.program("rfork-run"), image]).expect(0, out="True\nTrue\n")


def own(world, name):
    if world.drop:
        os.chown(world.folder / name, harness.ORDINARY, harness.ORDINARY)


CASES = {"replaced": replaced, "cut": cut, "grown": grown, "rewritten": rewritten, "changed": changed, "kind": kind,
         "mapped-cut": mapped_cut, "own-rights": own_rights, "long-path": long_path, "fifo": fifo, "one-end": one_end,
         "no-writer": no_writer, "fifo-away": fifo_away, "made": made, "links": links, "watches": watches, "marks": marks,
         "tail": tail, "streams": streams, "many": many}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")
