#!/usr/bin/python3
"""What the kernel forbids an ordinary user, measured, beside what docs/rootless.md says: rootless.py plain|namespace

`rootless.py measure` prints what is found where it runs. Each probe tries one thing and gives `yes` or the error's name.
`plain` is a user without any capability; `namespace` the same user in user, pid and mount namespaces of its own, as
a restore makes them.
"""

import ctypes
import errno
import fcntl
import json
import mmap
import os
import resource
import signal
import socket
import struct
import sys

import harness

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.syscall.restype = ctypes.c_long
LIBC.syscall.argtypes = None


def call(number, *arguments):
    """A raw system call; throws OSError."""
    wide = [ctypes.c_long(one) if isinstance(one, int) else one for one in arguments]
    result = LIBC.syscall(ctypes.c_long(number), *wide)
    if result < 0:
        raise OSError(ctypes.get_errno(), "")
    return result


def in_child(action):
    """Does it in a child process, whose end it doesn't outlive."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(writer, attempt(action).encode())
        os._exit(0)
    os.close(writer)
    word = os.read(reader, 100).decode()
    os.close(reader)
    os.waitpid(pid, 0)
    if word != "yes":
        raise OSError(getattr(errno, word, errno.EIO), "")


def attempt(action):
    try:
        action()
        return "yes"
    except OSError as error:
        return errno.errorcode.get(error.errno, str(error.errno))
    except ValueError:      # resource.setrlimit's word for EPERM
        return "EPERM"


PTRACE, PRCTL, CLONE3 = 101, 157, 435


def traced_child(action):
    """A child that stands still for `action(pid)`, under a filter that allows all."""
    pid = os.fork()
    if pid == 0:
        LIBC.prctl(38, 1, 0, 0, 0)                                      # PR_SET_NO_NEW_PRIVS
        program = ctypes.create_string_buffer(struct.pack("HBBI", 6, 0, 0, 0x7FFF0000))
        filters = ctypes.create_string_buffer(struct.pack("HxxxxxxQ", 1, ctypes.addressof(program)))
        LIBC.prctl(22, 2, ctypes.byref(filters), 0, 0)                  # PR_SET_SECCOMP
        call(PTRACE, 0, 0, 0, 0)
        os.kill(os.getpid(), signal.SIGSTOP)
        os._exit(0)
    os.waitpid(pid, os.WUNTRACED)
    try:
        action(pid)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def set_tid(value):
    tids = ctypes.create_string_buffer(struct.pack("i", value))
    arguments = struct.pack("QQQQQQQQQQQ", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(tids), 1, 0)
    buffer = ctypes.create_string_buffer(arguments)
    pid = call(CLONE3, buffer, len(arguments))
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def map_files():
    entry = [line.split()[0] for line in open("/proc/self/maps", encoding="utf-8") if "python3" in line][0]
    start, end = (int(part, 16) for part in entry.split("-"))
    os.close(os.open(f"/proc/self/map_files/{start:x}-{end:x}", os.O_RDONLY))


def page_frames():
    memory = mmap.mmap(-1, 4096)
    memory[0] = 1
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with open("/proc/self/pagemap", "rb") as pages:
        pages.seek(address // 4096 * 8)
        entry = struct.unpack("Q", pages.read(8))[0]
    if not entry >> 63:
        raise OSError(errno.EIO, "")
    if entry & ((1 << 55) - 1) == 0:
        raise OSError(errno.EPERM, "")     # present, and without its number


def write(path, text):
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)


def lower_oom_score():
    now = int(open("/proc/self/oom_score_adj", encoding="utf-8").read())
    write("/proc/self/oom_score_adj", str(max(now - 100, -1000)))


def lock_much():
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if hard in (resource.RLIM_INFINITY, -1):
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, 65536))
        hard = 65536
    memory = mmap.mmap(-1, hard + (1 << 20))
    if LIBC.mlock(ctypes.byref(ctypes.c_char.from_buffer(memory)), ctypes.c_size_t(len(memory))) != 0:
        raise OSError(ctypes.get_errno(), "")


def set_option(level, option, value=1, family=socket.AF_INET, kind=socket.SOCK_STREAM):
    def action():
        with socket.socket(family, kind) as one:
            one.setsockopt(level, option, value)
    return action


def open_socket(family, kind, protocol):
    return lambda: socket.socket(family, kind, protocol).close()


def raise_limit():
    soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 4096))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 8192))


def own_brk():
    call(PRCTL, 35, 6, 1 << 30, 0, 0)             # PR_SET_MM, PR_SET_MM_START_BRK


def memory_map(exe):
    """PR_SET_MM_MAP with what the process has already."""
    fields = open("/proc/self/stat", encoding="utf-8").read().rpartition(")")[2].split()
    stat = lambda number: int(fields[number - 3])
    brk = LIBC.sbrk
    brk.restype = ctypes.c_long
    auxv = open("/proc/self/auxv", "rb").read()
    vector = ctypes.create_string_buffer(auxv, len(auxv))
    exe_fd = os.open("/bin/sh", os.O_RDONLY) if exe else -1
    layout = struct.pack("=12QIi", stat(26), stat(27), stat(45), stat(46), stat(47), brk(0), stat(28), stat(48), stat(49),
                         stat(50), stat(51), ctypes.addressof(vector), len(auxv), exe_fd)
    buffer = ctypes.create_string_buffer(layout, len(layout))
    call(PRCTL, 35, 14, buffer, len(layout), 0)


def huge_page():
    mmap.mmap(-1, 2 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x40000).close()


def user_fault(flags):
    return lambda: os.close(call(323, flags))


def others_file():
    with open("/etc/shadow", "rb"):
        pass


def no_access_time():
    os.close(os.open("/etc/passwd", os.O_RDONLY | os.O_NOATIME))


def wake_timer():
    timer = ctypes.create_string_buffer(8)
    call(222, 9, 0, timer)                         # timer_create(CLOCK_BOOTTIME_ALARM)


def large_pipe():
    most = int(open("/proc/sys/fs/pipe-max-size", encoding="utf-8").read())
    reader, writer = os.pipe()
    try:
        fcntl.fcntl(writer, 1031, most * 2)        # F_SETPIPE_SZ
    finally:
        os.close(reader)
        os.close(writer)


def low_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 1))


def by_handle():
    handle = ctypes.create_string_buffer(struct.pack("Ii", 8, 1) + bytes(8))
    call(304, -100, handle, 0)


def other_user():
    os.setresuid(12345, 12345, 12345)


def gain_capability():
    header = ctypes.create_string_buffer(struct.pack("Ii", 0x20080522, 0))
    data = ctypes.create_string_buffer(struct.pack("IIIIII", 1, 1, 0, 0, 0, 0))
    call(126, header, data)


def own_scan():
    """Reads flags of its own pages through PAGEMAP_SCAN."""
    memory = mmap.mmap(-1, 4096)
    memory[0] = 1
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    regions = ctypes.create_string_buffer(24)
    argument = bytearray(struct.pack("12Q", 96, 0, start, start + 4096, 0, ctypes.addressof(regions), 1, 0, 0, 0, 0xFF, 0xFF))
    with open("/proc/self/pagemap", "rb") as pages:
        fcntl.ioctl(pages, 0xC0606610, argument)


def fork_from_mm():
    """What a tracer of one's own processes may do: another process's memory."""
    traced_child(lambda pid: open(f"/proc/{pid}/mem", "rb").close())


def duplicate():
    def action(pid):
        process = call(434, pid, 0)
        try:
            os.close(call(438, process, 1, 0))
        finally:
            os.close(process)
    traced_child(action)


NEWTIME, NEWNET, NEWUSER, NEWPID, NEWIPC = 0x80, 0x40000000, 0x10000000, 0x20000000, 0x08000000

# In the words of docs/rootless.md, first column.
PROBES = {
    "PTRACE_SECCOMP_GET_FILTER": lambda: traced_child(lambda pid: call(PTRACE, 0x420C, pid, 0, 0)),
    "open(/proc/PID/map_files/…)": map_files,
    "page frame numbers in /proc/PID/pagemap": page_frames,
    "PAGEMAP_SCAN": own_scan,
    "write /proc/PID/clear_refs": lambda: write("/proc/self/clear_refs", "4"),
    "/proc/PID/mem of an own process": fork_from_mm,
    "pidfd_getfd(2)": duplicate,
    "kcmp(2)": lambda: call(312, os.getpid(), os.getpid(), 0, 0, 1),
    "write ns_last_pid": lambda: write("/proc/sys/kernel/ns_last_pid", "5000"),
    "clone3(2) with set_tid": lambda: set_tid(30123),
    "unshare(CLONE_NEWUSER)": lambda: in_child(lambda: call(272, NEWUSER)),
    "unshare(CLONE_NEWPID)": lambda: in_child(lambda: call(272, NEWPID)),
    "unshare(CLONE_NEWIPC)": lambda: in_child(lambda: call(272, NEWIPC)),
    "write shm_next_id": lambda: write("/proc/sys/kernel/shm_next_id", "5"),
    "unshare(CLONE_NEWTIME)": lambda: in_child(lambda: call(272, NEWTIME)),
    "lower oom_score_adj": lambda: in_child(lower_oom_score),
    "SCHED_FIFO": lambda: in_child(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))),
    "lower the nice value": lambda: in_child(lambda: os.setpriority(os.PRIO_PROCESS, 0, -1)),
    "IOPRIO_CLASS_RT": lambda: in_child(lambda: call(251, 1, 0, 1 << 13)),
    "mlock(2) above RLIMIT_MEMLOCK": lambda: in_child(lock_much),
    "raise a hard limit": lambda: in_child(raise_limit),
    "setresuid(2) to another user": lambda: in_child(other_user),
    "setgroups(2)": lambda: in_child(lambda: os.setgroups([])),
    "capset(2) of one more": lambda: in_child(gain_capability),
    "PR_SET_SECUREBITS": lambda: in_child(lambda: call(PRCTL, 28, 0x2F, 0, 0, 0)),
    "chroot(2)": lambda: in_child(lambda: os.chroot("/")),
    "PR_SET_MM_START_BRK": lambda: in_child(own_brk),
    "PR_SET_MM_MAP": lambda: in_child(lambda: memory_map(False)),
    "PR_SET_MM_MAP with an exe link": lambda: in_child(lambda: memory_map(True)),
    "MAP_HUGETLB without a pool": huge_page,
    "userfaultfd(2)": user_fault(0),
    "userfaultfd(2), UFFD_USER_MODE_ONLY": user_fault(1),
    "open a file of mode 0600 of another user": others_file,
    "O_NOATIME on another user's file": no_access_time,
    "open_by_handle_at(2)": by_handle,
    "mknod(2) of a device": lambda: os.mknod(f"/tmp/rfork-node-{os.getpid()}", 0o20600, os.makedev(1, 3)),
    "raw sockets": open_socket(socket.AF_INET, socket.SOCK_RAW, 1),
    "packet sockets": open_socket(socket.AF_PACKET, socket.SOCK_RAW, 0),
    "bind(2) to a port below 1024": low_port,
    "SO_SNDBUFFORCE, SO_RCVBUFFORCE": set_option(socket.SOL_SOCKET, 32, 1 << 22),
    "SO_MARK": set_option(socket.SOL_SOCKET, 36),
    "SO_PRIORITY above 6": set_option(socket.SOL_SOCKET, 12, 7),
    "IP_TRANSPARENT": set_option(socket.IPPROTO_IP, 19),
    "TCP_REPAIR": set_option(socket.IPPROTO_TCP, 19),
    "F_SETPIPE_SZ above pipe-max-size": large_pipe,
    "CLOCK_BOOTTIME_ALARM": wake_timer,
    "fanotify_init(2)": lambda: os.close(call(300, 4, 0)),
    "bpf(2)": lambda: os.close(call(321, 0, ctypes.create_string_buffer(struct.pack("IIIII", 2, 4, 8, 1, 0) + bytes(100)), 120)),
}


def measure():
    print(json.dumps({name: attempt(probe) for name, probe in PROBES.items()}), flush=True)
    os._exit(0)


def documented():
    """{name: (plain, namespace)} of the table; a cell may allow several answers."""
    rows = {}
    for line in (harness.REPOSITORY / "docs/rootless.md").read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == 4 and not set(cells[0]) <= {"-"}:
            rows[cells[0]] = tuple([word.strip() for word in cell.split(" or ")] for cell in cells[1:3])
    rows.pop("what", None)
    return rows


def compare(world, column):
    argv = [sys.executable, "-B", __file__, "measure"]
    if column == 1:
        argv = ["unshare", "--user", "--map-current-user", "--keep-caps", "--pid", "--ipc", "--fork", "--mount", "--mount-proc", "--", *argv]
    script = world.folder / "rootless.py"
    # The ordinary user may not reach the source.
    for name in ("rootless.py", "harness.py"):
        (world.folder / name).write_text((harness.REPOSITORY / "tests/e2e" / name).read_text(encoding="utf-8"))
    argv[argv.index(__file__)] = str(script)
    said = world.run(argv)
    if column == 1 and said.code != 0:
        raise harness.Skip(f"no user namespaces here: {said.err}")
    found = said.expect(0).json()
    rows = documented()
    harness.expect(set(rows) == set(found),
                   f"rows without a probe: {set(rows) - set(found)}; without a row: {set(found) - set(rows)}")
    wrong = {name: f"{found[name]}, not {' or '.join(cells[column])}" for name, cells in rows.items()
             if found[name] not in cells[column]}
    harness.expect(not wrong, f"docs/rootless.md says otherwise: {wrong}")


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measure()
    harness.main(lambda world: compare(world, {"plain": 0, "namespace": 1}[sys.argv[1]]), user=True)
