#!/usr/bin/python3
"""Processes that can't be traced or carried: the right exit code, one clear line each, and no harm done:
bad_process.py CASE
"""

import ctypes
import os
import stat
import struct
import subprocess
import sys

import harness
from harness import CANNOT_CARRY, CANNOT_TRACE, USAGE, expect


def refuse(world, pid, code, *texts, options=(), lines=1):
    image = world.folder / "image.rfork"
    world.trace(pid, "-o", image, *options).refused(code, *texts, lines=lines)
    expect(not image.exists(), "an image was left behind")


def status(pid, key):
    for line in open(f"/proc/{pid}/status", encoding="utf-8"):
        if line.startswith(key + ":"):
            return line.split()[1]
    return ""


def unharmed(world, target, folder=None):
    expect(status(target.real_pid, "TracerPid") == "0", "it is still traced")
    expect(status(target.real_pid, "State") in "SR", "it is stopped")
    world.go(folder)
    target.wait().expect(0, out="ok\n")


def gone(world):
    ended = subprocess.Popen(["true"])
    ended.wait()
    refuse(world, ended.pid, CANNOT_TRACE, str(ended.pid))


def zombie(world):
    ended = subprocess.Popen(["true"])
    harness.wait_until(lambda: status(ended.pid, "State") == "Z", "a zombie")
    refuse(world, ended.pid, CANNOT_TRACE, str(ended.pid), "zombie")
    ended.wait()


WITHOUT_LEADER = """
import ctypes, os, threading, time
def stay():
    while "Z" not in open(f"/proc/self/task/{os.getpid()}/stat").read(): time.sleep(0.01)
    print("alone", flush=True)
    time.sleep(60)
for _ in range(2): threading.Thread(target=stay).start()
ctypes.CDLL(None).syscall(60, 0)    # exit(2): this thread's
"""


def leader(world):
    """A process whose main thread has ended while others run is none that has ended."""
    process = world.start([sys.executable, "-c", WITHOUT_LEADER])
    process.line()
    refuse(world, process.pid, CANNOT_TRACE, f"the main thread of process {process.pid} has ended", "2 others run")
    said = world.trace("--check", process.pid, "-o", world.folder / "image").expect(CANNOT_TRACE)
    expect("main thread" in " ".join(said.out.split()), f"{said}")
    process.kill()


CHURN = """
import threading, sys
print("ready", flush=True)
while True:
    threads = [threading.Thread(target=lambda: None) for _ in range(8)]
    for one in threads: one.start()
    for one in threads: one.join()
"""


def churn(world):
    """A process whose threads come and go is none that has ended, or whose threads differ."""
    process = world.start(["/usr/bin/python3", "-c", CHURN])
    expect(process.line() == "ready", "ready")
    for number in range(60):
        world.trace("--check", process.pid).expect(0)
        world.trace(process.pid, "-o", world.folder / "image").expect(0)
    process.popen.kill()


def not_ours(world):
    """Run as the ordinary user; the process is root's."""
    if os.geteuid() != 0:
        raise harness.Skip("only root can be two users")
    other = subprocess.Popen(["sleep", "60"])
    refuse(world, other.pid, CANNOT_TRACE, str(other.pid))
    other.kill()
    other.wait()


def traced(world):
    target = world.target("steady")
    ptrace_seize, ptrace_interrupt, ptrace_detach = 0x4206, 0x4207, 17
    libc = ctypes.CDLL(None, use_errno=True)
    libc.ptrace.argtypes = [ctypes.c_long] * 4
    expect(libc.ptrace(ptrace_seize, target.real_pid, 0, 0) == 0, "PTRACE_SEIZE")
    refuse(world, target.real_pid, CANNOT_TRACE, str(target.real_pid), "traced", str(os.getpid()))
    libc.ptrace(ptrace_interrupt, target.real_pid, 0, 0)
    os.waitid(os.P_PID, target.real_pid, os.WSTOPPED)
    libc.ptrace(ptrace_detach, target.real_pid, 0, 0)
    unharmed(world, target)


def kernel_thread(world):
    def is_kernel_thread(pid):
        try:
            fields = open(f"/proc/{pid}/stat", encoding="utf-8").read().rpartition(")")[2].split()
        except OSError:
            return False
        return int(fields[6]) & 0x200000  # PF_KTHREAD
    found = [name for name in os.listdir("/proc") if name.isdigit() and is_kernel_thread(name)]
    if not found:
        raise harness.Skip("no kernel threads can be seen here")
    refuse(world, found[0], CANNOT_TRACE, found[0], "kernel")


def itself(world):
    said = world.run(["sh", "-c", f"exec {world.program('rfork-trace')} $$ -o {world.folder}/image"])
    said.refused(CANNOT_TRACE, "itself")
    said = world.run(["sh", "-c", f"exec {world.program('rfork-trace')} --move $$ 127.0.0.1:9"])
    said.refused(CANNOT_TRACE, "itself")


def thread_id(world):
    target = world.target("steady")
    tids = os.listdir(f"/proc/{target.real_pid}/task")
    tid = [tid for tid in tids if int(tid) != target.real_pid][0]
    refuse(world, tid, CANNOT_TRACE, tid, str(target.real_pid))
    unharmed(world, target)


def no_number(world):
    for word in ("0", "-1", "abc", "99999999999999", "1x", ""):
        said = world.run([world.program("rfork-trace"), word, "-o", world.folder / "image"])
        expect(said.code in (USAGE, CANNOT_TRACE), f"{said}")
        expect(said.err.strip(), f"it says nothing: {said}")
    refuse(world, 4194304 + 5, CANNOT_TRACE, "4194309")


def thirty_two_bit(world):
    """A 32-bit ELF file made of bytes: for (;;) pause();"""
    code = bytes([0xB8, 29, 0, 0, 0, 0xCD, 0x80, 0xEB, 0xF7])  # mov $29, %eax; int $0x80; jmp
    base, head = 0x08048000, 52 + 32
    elf = (b"\x7fELF\x01\x01\x01" + bytes(9) +
           struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + head, 52, 0, 0, 52, 32, 1, 0, 0, 0) +
           struct.pack("<IIIIIIII", 1, 0, base, base, head + len(code), head + len(code), 5, 0x1000))
    program = world.folder / "thirty-two"
    program.write_bytes(elf + code)
    program.chmod(program.stat().st_mode | stat.S_IXUSR | stat.S_IXOTH)
    try:
        process = subprocess.Popen([str(program)])
    except OSError as error:
        raise harness.Skip(f"this kernel runs no 32-bit programs: {error}") from None
    try:
        os.kill(process.pid, 0)
        if process.poll() is not None:
            raise harness.Skip("this kernel runs no 32-bit programs")
        refuse(world, process.pid, CANNOT_TRACE, str(process.pid), "32-bit")
        expect(process.poll() is None, "it ended")
    finally:
        process.kill()
        process.wait()


def descriptors(world):
    """Each kind is refused by name with the way to accept its loss; with all accepted it goes through."""
    kinds = ["pipe", "socketpair", "tcp", "tcp-urgent", "tcp-mark", "tcp-not-accepted", "stale-epoll", "terminal",
             "terminal-unread"]
    for kind in [*kinds, "in-flight"]:
        folder = world.folder / kind
        folder.mkdir()
        target = hold(world, folder, kind)
        number = (folder / kind).read_text()
        refuse(world, target.real_pid, CANNOT_CARRY, f"descriptor {number} ", f"--drop-fd {number}")
        expect(status(target.real_pid, "State") in "SR", "it is stopped")
        world.go(folder)
        target.wait().expect(0, out="ok\n")
    folder = world.folder / "all"
    folder.mkdir()
    target = hold(world, folder, *kinds)
    numbers = [(folder / kind).read_text() for kind in kinds]
    refuse(world, target.real_pid, CANNOT_CARRY, *[f"--drop-fd {number}" for number in numbers],
           lines=len(kinds))
    world.go(folder)
    target.wait().expect(0, out="ok\n")


NAMES = {"fanotify": "a fanotify group that is asked for permission", "userfaultfd": "a userfaultfd", "io_uring": "an io_uring",
         "perf": "a perf event", "secret": "secret memory (memfd_secret)", "queue": "the POSIX message queue",
         "other-pidfd": "a pidfd of process", "other-proc": "of another process",
         **{f"unix-{kind}": "with urgent data" for kind in ("urgent", "urgent-inline")},
         "shared-eventfd": "(holds) has too", "shared-epoll": "(holds) has too",
         "shared-fanotify": "(holds) has too", "shared-fifo": "a FIFO"}
OBJECTS = {"aio": "a ring of io_setup(2)", "secret-memory": "secret memory (memfd_secret)"}


def kernel_objects(world):
    """Each is called by what it is."""
    missing = []
    for kind, words in (NAMES | OBJECTS).items():
        folder = world.folder / kind
        folder.mkdir()
        try:
            target = hold(world, folder, kind)
        except harness.Skip:
            missing.append(kind)
            continue
        said = world.trace(target.real_pid, "-o", world.folder / "image.rfork")
        said.expect(CANNOT_CARRY, err=words)
        if kind in NAMES:
            number = (folder / kind).read_text()
            said.expect(CANNOT_CARRY, err=[f"descriptor {number} ", f"--drop-fd {number}"])
        world.go(folder)
        target.wait().expect(0, out="ok\n")
    if missing:
        print("not here:", *missing)
    expect(len(missing) < len(NAMES), "nothing was tried")


def hold(world, folder, *kinds):
    if world.drop:
        os.chown(folder, harness.ORDINARY, harness.ORDINARY)
    return world.target("holds", *kinds, folder=folder)


def dropped(world):
    """What is given up is closed in the child. The original would find it open, so it is killed."""
    kinds = ["pipe", "tcp", "eventfd", "epoll"]
    target = world.target("holds", "lost", *kinds)
    image = world.folder / "image.rfork"
    options = [word for kind in kinds for word in ("--drop-fd", (world.folder / kind).read_text())]
    world.trace(target.real_pid, "-o", image, *options).expect(0)
    target.kill()
    world.go()
    world.run([world.program("rfork-run"), image]).expect(0, out="ok\n")


def no_descriptor(world):
    """A number that isn't open is a mistake of the caller's."""
    target = world.target("steady")
    said = world.trace(target.real_pid, "-o", world.folder / "image", "--drop-fd", "99")
    expect(said.code in (0, USAGE, CANNOT_CARRY), f"{said}")
    unharmed(world, target)


def objects(world):
    """What has no descriptor, or is behind one: refused by name, with the option that accepts its loss, if there is one."""
    for kind, text, option in (("posix-timer", "timer", "--drop-timers"), ("sysv-shm", "SysV", "--own-segments"),
                               ("semaphores", "SysV semaphores", "--drop-ipc"),
                               ("message-queue", "SysV message queue", "--drop-ipc"),
                               ("child", "(holds)", "--leave-children")):
        folder = world.folder / kind
        folder.mkdir()
        target = hold(world, folder, kind)
        image = world.folder / "image.rfork"
        said = world.trace(target.real_pid, "-o", image)
        expect(said.code == CANNOT_CARRY and text.lower() in said.err.lower(), f"{kind}: {said}")
        expect(status(target.real_pid, "State") in "SR", "it is stopped")
        if option:
            expect(option in said.err, f"{kind}: no word of {option}: {said}")
            world.trace(target.real_pid, "-o", image, option).expect(0)
        world.go(folder)
        target.wait().expect(0, out="ok\n")


WITH_BREAKPOINT = """
import ctypes, os, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
PTRACE_POKEUSER, PTRACE_ATTACH, PTRACE_DETACH = 6, 16, 17
DEBUG_REGISTER = 848    # offsetof(struct user, u_debugreg)
word = ctypes.c_long(0)
parent = os.getpid()
if os.fork() == 0:
    def must(request, address, value):
        if libc.ptrace(request, parent, address, value) != 0:
            os._exit(ctypes.get_errno())
    must(PTRACE_ATTACH, 0, 0)
    os.waitpid(parent, 0x40000000)
    must(PTRACE_POKEUSER, DEBUG_REGISTER, ctypes.addressof(word))
    must(PTRACE_POKEUSER, DEBUG_REGISTER + 7 * 8, 0xd0001)    # DR0, 4 bytes, writes
    must(PTRACE_DETACH, 0, 0)
    os._exit(0)
print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
sys.stdin.readline()
print("goes on")
"""


def debug_registers(world):
    """Breakpoints that outlived their tracer: known after the freeze only."""
    target = world.start([sys.executable, "-c", WITH_BREAKPOINT], stdin=subprocess.PIPE)
    error = int(target.line())
    if error != 0:
        raise harness.Skip(f"no hardware breakpoints here: {os.strerror(error)}")
    refuse(world, target.pid, CANNOT_CARRY, f"thread {target.pid} has hardware breakpoints in its debug registers",
           "--drop-attributes")
    said = world.trace("--check", "--json", target.pid, "-o", world.folder / "image").expect(CANNOT_CARRY).json()
    expect("hardware breakpoints" in said["reasons"][0]["what"], f"{said}")
    world.trace("--drop-attributes", target.pid, "-o", world.folder / "image").expect(0)
    target.popen.stdin.write("\n")
    target.popen.stdin.flush()
    target.wait().expect(0, out="goes on")


SOCKETS = {"error": "with an error, or a message in its error queue", "error-queue": "with an error, or a message in its error queue",
           "packet-error": "with an error", "cork": "the beginning of a datagram", "more": "the beginning of a datagram",
           "ring": "with a ring", "mapped-ring": "with a ring", "closed-ring": "belongs to a socket"}


def sockets(world):
    """What is in a socket and can't be read is refused by name, by --check and by a copy too, and is still there after that."""
    for kind, text in SOCKETS.items():
        folder = world.folder / kind
        folder.mkdir()
        try:
            target = world.target("refused_sockets", kind, folder=folder)
        except harness.Skip as why:
            print(f"not here: {kind}: {why}")
            continue
        number = (folder / "number").read_text()
        image = world.folder / "image.rfork"
        for move in ([], ["--move"]):
            said = world.trace("--check", "--json", *move, target.real_pid, "-o", image).expect(CANNOT_CARRY).json()
            expect(any(text in reason["what"] for reason in said["reasons"]), f"{kind}: {said}")
            said = world.trace(target.real_pid, "-o", image, *move).expect(CANNOT_CARRY, err=text)
            if number != "-1":
                said.expect(CANNOT_CARRY, err=[f"descriptor {number} ", f"--drop-fd {number}"])
        unharmed(world, target, folder)


WITH_LOSSES = """
import os, socket, sys
os.chdir(sys.argv[1])
one = socket.socket(socket.AF_UNIX)
one.bind("relative")
one.listen()
os.chdir("/")
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253)  # for experiments
raw.sendto(b"packet", ("127.0.0.1", 0))
packets = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
print(one.fileno(), raw.fileno(), packets.fileno(), flush=True)
sys.stdin.readline()
print(len(raw.recv(100)))
"""


def socket_notes(world):
    """What a socket loses and the program goes on without is said, by --check too."""
    target = world.start([sys.executable, "-c", WITH_LOSSES, world.folder], stdin=subprocess.PIPE)
    one, raw, packets = target.line().split()
    notes = [f"descriptor {one} is", "nobody will reach it", f"descriptor {raw} is", "nobody has read, which are lost",
             f"descriptor {packets} is", "promiscuous mode"]
    said = world.trace("--check", "--json", target.pid, "-o", world.folder / "image").expect(0).json()
    text = " ".join(item["what"] for item in said["changed"])
    expect(all(note in text for note in notes), f"{said}")
    world.trace(target.pid, "-o", world.folder / "image").expect(0, err=notes)
    target.popen.stdin.write("\n")
    target.popen.stdin.flush()
    target.wait().expect(0, out="26")  # with its IP header


UNCARRIED = {"dispatch": ("PR_SET_SYSCALL_USER_DISPATCH", False), "landlock": ("Landlock domain", True),
             "descriptors": ("has descriptors of its own", False),
             "directory": ("has a working directory, root and umask of its own", False),
             "segments": ("modify_ldt(2)", True), "cpuid": ("ARCH_SET_CPUID", True),
             "shared-memory": ("shares its memory with process", True),
             "shared-descriptors": ("shares its descriptors with process", True),
             "full-stack": ("below its stack pointer", False)}


def uncarried(kind):
    """Known to the kernel only, and lost silently or deadly if rfork did not ask: refused by name, by --check too."""
    text, can_be_left = UNCARRIED[kind]

    def run(world):
        target = world.target("uncarried", kind)
        image = world.folder / "image.rfork"
        for move in ([], ["--move"]):
            refuse(world, target.real_pid, CANNOT_CARRY, text, options=move)
            said = world.trace("--check", "--json", *move, target.real_pid, "-o", image).expect(CANNOT_CARRY).json()
            expect(text in said["reasons"][0]["what"], f"{said}")
        if can_be_left:
            world.trace("--drop-attributes", target.real_pid, "-o", image).expect(0)
        unharmed(world, target)

    return run


def surroundings(world):
    """Namespaces that the child won't be in are named, and go into --check."""
    if os.geteuid() != 0:
        raise harness.Skip("only root can make them without a user namespace")
    target = world.start(["unshare", "--net", "--uts", "sh", "-c", "echo ready; read line; echo ok"],
                         stdin=subprocess.PIPE)
    expect(target.line() == "ready", "it isn't ready")
    said = world.trace(target.pid, "-o", world.folder / "image").expect(0)
    for name in ("network", "UTS"):
        expect(f"is in a {name} namespace of its own" in said.err, f"{said}")
    said = world.trace("--check", target.pid, "-o", world.folder / "image").expect(0)
    expect("network namespace of its own" in said.out, f"{said}")
    target.popen.stdin.write("\n")
    target.popen.stdin.flush()
    target.wait().expect(0, out="ok")


CASES = {"gone": gone, "zombie": zombie, "leader": leader, "churn": churn, "not-ours": not_ours, "traced": traced,
         "kernel-thread": kernel_thread, "itself": itself, "thread": thread_id, "no-number": no_number,
         "32-bit": thirty_two_bit, "descriptors": descriptors, "dropped": dropped,
         "no-descriptor": no_descriptor, "objects": objects, "kernel-objects": kernel_objects,
         "debug-registers": debug_registers, "sockets": sockets, "socket-notes": socket_notes, "surroundings": surroundings}
CASES |= {f"uncarried.{kind}": uncarried(kind) for kind in UNCARRIED}

if __name__ == "__main__":
    case = sys.argv[1]
    harness.main(CASES[case], user=case == "not-ours", isolated=case != "kernel-thread")
