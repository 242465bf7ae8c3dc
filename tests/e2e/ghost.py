#!/usr/bin/python3
"""What is left of a moved process, and what goes through it: ghost.py CASE root|user

The original is an ordinary Python program on one host whose parent is this test; it is moved to another host, and
everything that its parent does with it must go on as if it had stayed.
"""

import concurrent.futures
import ctypes
import os
import pathlib
import random
import signal
import socket
import subprocess
import sys
import threading
import time

import harness
from harness import expect, wait_until
from proxy import Proxy

ECHO = r'''
import os, signal, sys
signal.signal(signal.SIGUSR1, lambda *_: print("usr1", flush=True))
print("ready", flush=True)
for line in sys.stdin:
    word, _, value = line.strip().partition(" ")
    if word == "exit": sys.exit(int(value))
    if word == "die": os.kill(os.getpid(), int(value))
    print("out", line.strip(), flush=True)
    print("err", line.strip(), file=sys.stderr, flush=True)
print("end of input", flush=True)
sys.exit(7)
'''


class Moved:
    """A Python program that has been moved; `process` is what its parent has of it. With `relay` it goes to a daemon
    on this host, through a connection that can be cut."""

    def __init__(self, world, program=ECHO, relay=False, **popen):
        self.world = world
        self.here, self.there = (None, None) if relay else world.two_hosts()
        self.daemon = harness.Daemon(world, self.there)
        self.relay = Proxy(self.daemon.address) if relay else None
        popen = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **popen}
        enter = self.here.enter if self.here else []
        self.process = subprocess.Popen(enter + world.drop + ["/usr/bin/python3", "-u", "-c", program], text=True,
                                        cwd=world.folder, **popen)
        if popen["stdout"] == subprocess.PIPE:
            expect(self.process.stdout.readline() == "ready\n", "the program isn't ready")

    def move(self, *options):
        address = self.relay.address if self.relay else self.daemon.address
        self.world.trace("--move", *options, self.process.pid, address, host=self.here, key=self.daemon.key).expect(0)
        self.id = self.daemon.child_id()
        return self

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def state(self):
        child = [child for child in self.daemon.children() if str(child["id"]) == self.id][0]
        return "stopped" if child["stopped"] else child["state"]


def stdio(world):
    moved = Moved(world).move()
    process = moved.process
    for i in range(3):
        expect(moved.ask(f"hello {i}") == f"out hello {i}", "standard output")
        expect(process.stderr.readline() == f"err hello {i}\n", "standard error")
    process.stdin.close()
    expect(process.stdout.readline() == "end of input\n", "the end of input")
    expect(process.stdout.read() == "" and process.stderr.read() == "", "there is more")
    expect(process.wait(20) == 7, "exit status")


def ends(world):
    for line, status in (("exit 0", 0), ("exit 200", 200), ("die 15", -15), ("die 11", -11), ("die 9", -9)):
        moved = Moved(world).move()
        moved.process.stdin.write(line + "\n")
        moved.process.stdin.flush()
        expect(moved.process.wait(20) == status, f"{line}: {moved.process.returncode}")


def signals(world):
    """Forwarded in order; caught ones are handled there; a stop shows here, and so does going on."""
    program = r'''
import signal, sys
got = []
def note(number, _): got.append(number)
for number in range(signal.SIGRTMIN, signal.SIGRTMIN + 8): signal.signal(number, note)
signal.signal(signal.SIGTERM, lambda *_: (print(*got, flush=True), sys.exit(3)))
print("ready", flush=True)
while True: signal.pause()
'''
    moved = Moved(world, program).move()
    process = moved.process
    for number in range(signal.SIGRTMIN + 7, signal.SIGRTMIN - 1, -1):
        process.send_signal(number)
        time.sleep(0.1)  # Python tells those that come together in the order of their numbers
    process.send_signal(signal.SIGSTOP)
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    expect(os.WIFSTOPPED(status) and os.WSTOPSIG(status) == signal.SIGSTOP, f"stopped: {status:#x}")
    expect(moved.state() == "stopped", f"there: {moved.state()}")
    process.send_signal(signal.SIGCONT)
    _, status = os.waitpid(process.pid, os.WCONTINUED)
    expect(os.WIFCONTINUED(status), f"went on: {status:#x}")
    wait_until(lambda: moved.state() == "running", "it runs on there")
    process.send_signal(signal.SIGTERM)
    said = process.stdout.readline().split()
    expect(said == [str(n) for n in range(signal.SIGRTMIN + 7, signal.SIGRTMIN - 1, -1)], f"order: {said}")
    expect(process.wait(20) == 3, "exit status")


NUMBERED = r'''
import ctypes, signal, struct, sys
memory = bytearray(100 << 20)
libc = ctypes.CDLL(None)
number = signal.SIGRTMIN + 1
signal.pthread_sigmask(signal.SIG_BLOCK, [number])
wanted = ctypes.create_string_buffer(struct.pack("<Q", 1 << number - 1), 128)
info = ctypes.create_string_buffer(128)
values = []
print("ready", flush=True)
while not values or values[-1] != -1:
    if libc.sigwaitinfo(wanted, info) == number: values.append(struct.unpack_from("<i", info, 24)[0])
print(len(values), next((n for n, value in enumerate(values[:-1]) if n != value), "in order"), flush=True)
'''


def send_numbers(pid, stop):
    """Queues signals with 0, 1, 2, … until `stop` is set, and then one with -1. Gives how many it were."""
    libc, count = ctypes.CDLL(None), 0
    while not stop.is_set():
        expect(libc.sigqueue(pid, signal.SIGRTMIN + 1, count) == 0, "sigqueue")
        count += 1
        time.sleep(0.0005)
    libc.sigqueue(pid, signal.SIGRTMIN + 1, -1)
    return count + 1


def numbered(world):
    """Signals that come before, during and after a move: none is missing, none comes twice, all in their order."""
    moved = Moved(world, NUMBERED)
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        sent = pool.submit(send_numbers, moved.process.pid, stop)
        time.sleep(0.1)
        moved.move()
        time.sleep(0.3)
        stop.set()
    said = moved.process.stdout.readline().split(maxsplit=1)
    expect(said == [str(sent.result()), "in order\n"], f"{sent.result()} sent, {said}")
    expect(moved.process.wait(20) == 0, "exit status")


def late(world):
    """Nobody passes on what comes during a move into a file: it is said."""
    process = world.start(["/usr/bin/python3", "-c", NUMBERED])
    expect(process.line() == "ready", "ready")
    stop = threading.Event()
    with concurrent.futures.ThreadPoolExecutor() as pool:
        def send():
            libc = ctypes.CDLL(None)
            while not stop.is_set() and libc.sigqueue(process.pid, signal.SIGRTMIN + 1, 1) == 0: time.sleep(0.0005)
        pool.submit(send)
        time.sleep(0.1)
        said = world.trace(process.pid, "--move", "-o", world.folder / "image").expect(0)
        stop.set()
    expect("is lost: SIGRTMIN+1 (" in said.err, f"{said}")
    process.wait()


def killed(world):
    """A ghost that is killed takes the child with it."""
    moved = Moved(world).move()
    moved.process.kill()
    expect(moved.process.wait(20) == -signal.SIGKILL, "the ghost")
    moved.daemon.finished(moved.id)
    wait_until(lambda: moved.state() == "ended", "the child has ended")


def light(world):
    """A ghost and who attends to it take little memory and no time while nothing happens."""
    moved = Moved(world).move()
    pids = [moved.process.pid, int(harness_status(moved.process.pid, "TracerPid"))]
    resident = lambda: [int(harness_status(pid, "VmRSS").split()[0]) for pid in pids]
    wait_until(lambda: sum(resident()) < 3072, lambda: f"little memory: {resident()} KiB")
    ticks = lambda: sum(int(open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[n]) for pid in pids
                        for n in (11, 12))
    before, switches = ticks(), harness_status(pids[1], "voluntary_ctxt_switches")
    time.sleep(2)
    expect(ticks() == before and harness_status(pids[1], "voluntary_ctxt_switches") == switches, "it isn't idle")
    expect(moved.ask("exit 4") == "", "it says something")
    expect(moved.process.wait(20) == 4, "exit status")


def comm(pid):
    try:
        return pathlib.Path(f"/proc/{pid}/comm").read_text(encoding="utf-8")
    except OSError:
        return ""


def harness_status(pid, key):
    for line in open(f"/proc/{pid}/status"):
        if line.startswith(key + ":"):
            return line.split(":", 1)[1].strip()
    raise harness.Failed(f"no {key} in /proc/{pid}/status")


def broken(world):
    """Nobody reads its output any more: SIGPIPE, as here."""
    program = r'''
import signal, sys, time
signal.signal(signal.SIGPIPE, signal.SIG_DFL)
print("ready", flush=True)
while True:
    print("x" * 1000, flush=True)
    time.sleep(0.01)
'''
    moved = Moved(world, program).move()
    moved.process.stdout.readline()
    moved.process.stdout.close()
    expect(moved.process.wait(20) == -signal.SIGPIPE, f"{moved.process.returncode}")


def slow_reader(world):
    """Who isn't read is stopped by full buffers, and loses nothing."""
    program = r'''
import os, sys, time
print("ready", flush=True)
count = 0
os.set_blocking(2, True)
for i in range(4000):
    os.write(1, b"%07d\n" % i * 128)
    count += 1
    if i % 100 == 0: os.write(2, b"%d\n" % i)
'''
    moved = Moved(world, program).move()
    time.sleep(1.5)
    os.set_blocking(moved.process.stderr.fileno(), False)
    written = int((moved.process.stderr.read() or "0\n").split()[-1])
    expect(written * 1024 < 2 << 20, f"{written} KiB went nowhere: the writer wasn't stopped")
    data = moved.process.stdout.read()
    expect(data == "".join(f"{i:07d}\n" * 128 for i in range(4000)), f"{len(data)} bytes, and not those")
    expect(moved.process.wait(20) == 0, "exit status")


def unread(world):
    """Nobody reads what it writes: it stops and ends all the same when it is told to; the rest can be read later."""
    program = r'''
import os
print("ready", flush=True)
i = 0
while True:
    os.write(1, b"%07d\n" % i)
    i += 1
'''
    moved = Moved(world, program).move()
    process = moved.process
    time.sleep(0.5)    # every buffer on the way is full by now
    process.send_signal(signal.SIGSTOP)
    wait_until(lambda: os.waitpid(process.pid, os.WUNTRACED | os.WNOHANG)[0], "it stops", 5)
    process.send_signal(signal.SIGCONT)
    wait_until(lambda: os.waitpid(process.pid, os.WCONTINUED | os.WNOHANG)[0], "it goes on", 5)
    process.send_signal(signal.SIGTERM)
    expect(process.wait(5) == -signal.SIGTERM, f"its end: {process.returncode}")
    lines = process.stdout.read().splitlines()
    expect(len(lines) > 40_000 and lines == [f"{i:07d}" for i in range(len(lines))], f"{len(lines)} lines, and not those")


def sockets(world):
    """A socket pair to its parent, both ways, with a half close; what was buffered at the capture is there."""
    program = r'''
import socket, sys, time, os
s = socket.socket(fileno=int(os.environ["FD"]))
print("ready", flush=True)
time.sleep(0)
while not os.path.exists("go"): time.sleep(0.01)
got = b""
while True:
    part = s.recv(65536)
    if not part: break
    got += part
s.sendall(got[::-1])
s.shutdown(socket.SHUT_WR)
time.sleep(0.1)
'''
    mine, its = socket.socketpair()
    os.set_inheritable(its.fileno(), True)
    moved = Moved(world, program, pass_fds=[its.fileno()], env={**os.environ, "FD": str(its.fileno())})
    its.close()
    mine.sendall(b"before ")
    moved.move()
    mine.sendall(b"after " * 50000)
    mine.shutdown(socket.SHUT_WR)
    world.go()
    got = b""
    while part := mine.recv(65536):
        got += part
    expect(got == (b"before " + b"after " * 50000)[::-1], f"{len(got)} bytes: {got[:40]}")
    expect(moved.process.wait(20) == 0, "exit status")


def lost(world):
    """The child's agent is killed: the ghost hears that nobody attends to it, says so and exits 255."""
    program = r'''
import signal, sys, os
signal.signal(signal.SIGHUP, lambda *_: (open("hup", "w").close(), os._exit(9)))
print("ready", flush=True)
while True: signal.pause()
'''
    moved = Moved(world, program).move()

    def agent():
        """The one worker that stays; who asked for the child's id may not have gone yet."""
        workers = [pid for pid in harness.children_of(moved.daemon.pid) if "worker" in comm(pid)]
        return workers[0] if len(workers) == 1 else None

    os.kill(wait_until(agent, "one worker stays"), signal.SIGKILL)
    expect(moved.process.wait(60) == 255, f"exit status {moved.process.returncode}")
    expect("connection" in moved.process.stderr.read(), "it says nothing")


def codes(world):
    """What SIGCHLD says of a ghost, once for each change, and waitid(2) that leaves it to be waited for."""
    moved = Moved(world).move()
    pid = moved.process.pid
    signal.signal(signal.SIGCHLD, lambda *_: None)    # not ignored, so that it is queued while blocked
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGCHLD])

    def next_change():
        info = signal.sigtimedwait([signal.SIGCHLD], 10)
        expect(info is not None, "no SIGCHLD")
        expect(info.si_pid == pid, f"SIGCHLD of another: {info}")
        return info.si_code, info.si_status

    def peeked(options, code, status):
        for flags in (os.WNOWAIT, os.WNOWAIT, 0):
            seen = os.waitid(os.P_PID, pid, options | flags)
            expect((seen.si_pid, seen.si_code, seen.si_status) == (pid, code, status), f"waitid: {seen}")

    for _ in range(3):
        for number, code, status, options in ((signal.SIGSTOP, os.CLD_STOPPED, signal.SIGSTOP, os.WSTOPPED),
                                              (signal.SIGCONT, os.CLD_CONTINUED, signal.SIGCONT, os.WCONTINUED)):
            os.kill(pid, number)
            expect(next_change() == (code, status), f"SIGCHLD after {number}")
            peeked(options, code, status)
    os.kill(pid, signal.SIGUSR1)    # handled there; nothing for its parent
    # A signal just before Python's read(2) is noticed after it only: so there is something to read.
    said = {moved.ask("poke"), moved.process.stdout.readline().strip()}
    expect(said == {"usr1", "out poke"}, f"a handler there: {said}")
    moved.process.stdin.write("exit 9\n")
    moved.process.stdin.flush()
    expect(next_change() == (os.CLD_EXITED, 9), "SIGCHLD of its end")
    peeked(os.WEXITED, os.CLD_EXITED, 9)
    expect(signal.sigtimedwait([signal.SIGCHLD], 0.2) is None, "one SIGCHLD too many")
    try:
        os.waitpid(pid, os.WNOHANG)
        raise harness.Failed("it can be waited for twice")
    except ChildProcessError:
        pass


def hasty(world):
    """Stopped and let go on again at any moment of the stop's way there and back: at the end it runs."""
    moved = Moved(world).move()
    pid = moved.process.pid
    for i in range(120):
        os.kill(pid, signal.SIGSTOP)
        time.sleep(i % 60 * 0.00005)
        os.kill(pid, signal.SIGCONT)
        if i % 4 == 3:
            expect(moved.ask(f"{i}") == f"out {i}", f"after {i}")
    moved.process.send_signal(signal.SIGTERM)
    expect(moved.process.wait(10) == -signal.SIGTERM, "its end")


def moved_stopped(world):
    """One that is stopped when it is moved stays so until somebody lets it go on."""
    moved = Moved(world)
    moved.process.send_signal(signal.SIGSTOP)
    expect(os.WIFSTOPPED(os.waitpid(moved.process.pid, os.WUNTRACED)[1]), "it doesn't stop")
    moved.move()
    expect(moved.state() == "stopped", f"there: {moved.state()}")
    wait_until(lambda: "stop" in harness_status(moved.process.pid, "State"), "the ghost is stopped")
    moved.process.send_signal(signal.SIGCONT)
    expect(os.WIFCONTINUED(os.waitpid(moved.process.pid, os.WCONTINUED)[1]), "it doesn't go on")
    expect(moved.ask("on") == "out on", "what it says")
    moved.process.send_signal(signal.SIGSTOP)
    expect(os.WIFSTOPPED(os.waitpid(moved.process.pid, os.WUNTRACED)[1]), "it doesn't stop again")
    moved.process.send_signal(signal.SIGCONT)
    moved.ask("exit 4")
    expect(moved.process.wait(20) == 4, "exit status")


# A shell's child that is moved; the shell waits. It says its pid, and what it gets.
SHELL_CHILD = r'''
import os, signal, sys, time
for name in sys.argv[2:]:
    signal.signal(getattr(signal, name), lambda number, _, name=name: print("got", name, flush=True))
print("pid", os.getpid(), flush=True)
while not os.path.exists(sys.argv[1]): time.sleep(0.01)
print("end", flush=True)
sys.exit(6)
'''


class Shell:
    """A command that starts the program (as $PROGRAM) and waits for it; it has been moved."""

    def __init__(self, world, command, output=None):
        self.world = world
        self.here, self.there = world.two_hosts()
        self.daemon = harness.Daemon(world, self.there)
        (world.folder / "program").write_text(SHELL_CHILD)
        environment = {**os.environ, "PROGRAM": f"/usr/bin/python3 -u {world.folder}/program {world.folder}/go"}
        self.process = subprocess.Popen([*self.here.enter, *world.drop, "bash", "-c", command], text=True, env=environment,
                                        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                        cwd=world.folder, start_new_session=True)
        if output:
            wait_until(lambda: output.exists() and output.read_text().endswith("\n"), "the program is ready")
        self.pid = int((output.read_text() if output else self.line()).split()[1])
        world.trace("--move", self.pid, self.daemon.address, host=self.here, key=self.daemon.key).expect(0)

    def line(self):
        return self.process.stdout.readline().strip()

    def ends(self, status, out=""):
        said = self.process.communicate(timeout=10)
        expect(self.process.returncode == status and said[0] == out, f"{self.process.returncode}: {said}")
        wait_until(lambda: not self.daemon.living(), "the child has ended")


def timeout(world):
    """timeout(1) ends it there, gently or not, and tells how."""
    started = time.monotonic()
    Shell(world, "timeout 1 $PROGRAM; echo $?").ends(0, "124\n")
    expect(time.monotonic() - started >= 1, "it ended too early")
    Shell(world, "timeout -k 0.3 0.7 $PROGRAM SIGTERM 2>&1; echo $?").ends(0, "got SIGTERM\n137\n")
    shell = Shell(world, "timeout 20 $PROGRAM; echo $?")
    world.go()
    shell.ends(0, "end\n6\n")


def nohup(world):
    """It goes on after SIGHUP, also when its shell has gone, and what it says is in the file."""
    out = world.folder / "nohup.txt"
    shell = Shell(world, f"nohup $PROGRAM > {out} 2>&1 & wait", out)
    os.kill(shell.pid, signal.SIGHUP)
    os.killpg(shell.process.pid, signal.SIGHUP)
    expect(shell.process.wait(10) == -signal.SIGHUP, "the shell")
    expect([child["state"] for child in shell.daemon.children()] == ["running"], f"{shell.daemon.children()}")
    world.go()
    wait_until(lambda: not shell.daemon.living(), "the child ends")
    wait_until(lambda: out.read_text().endswith("end\n"), lambda: f"its output: {out.read_text()!r}")
    expect(shell.daemon.ctl("wait", "1").code == 6, "exit status")


def group(world):
    """A signal to its process group, from the shell and from outside, reaches the child."""
    shell = Shell(world, "trap 'echo shell' USR1; trap 'echo term' TERM; $PROGRAM SIGUSR1 & "
                         "while [ ! -e kill ]; do sleep 0.02; done; kill -TERM 0; wait $!; echo $?; wait")
    os.killpg(shell.process.pid, signal.SIGUSR1)
    said = {shell.line(), shell.line()}
    expect(said == {"shell", "got SIGUSR1"}, f"{said}")
    (world.folder / "kill").touch()
    shell.ends(0, "term\n143\n")


def cut(world):
    """The connection breaks again and again in the middle of streams both ways: nothing is lost or comes twice."""
    program = r'''
import sys, threading
print("ready", flush=True)
def write():
    for i in range(150000): sys.stdout.write("%07d abcdefghijklmnopqrstuvwxyz\n" % i)
    sys.stdout.flush()
writer = threading.Thread(target=write)
if sys.stdin.readline() == "start\n": writer.start()
total = 0
for i, line in enumerate(sys.stdin):
    if line != "line %d\n" % i: sys.exit(1)
    total += 1
writer.join()
print("read", total, flush=True)
sys.exit(5)
'''
    moved = Moved(world, program, relay=True).move()
    process, got = moved.process, []

    def feed():
        process.stdin.write("start\n" + "".join(f"line {i}\n" for i in range(200000)))
        process.stdin.close()

    def drink():
        for line in process.stdout:
            got.append(line)

    threads = [threading.Thread(target=work, daemon=True) for work in (feed, drink)]
    for thread in threads:
        thread.start()
    for _ in range(12):
        time.sleep(random.uniform(0.01, 0.12))
        moved.relay.cut_all()
    for thread in threads:
        thread.join(30)
    expected = [f"{i:07d} abcdefghijklmnopqrstuvwxyz\n" for i in range(150000)] + ["read 200000\n"]
    wrong = next((i for i, (a, b) in enumerate(zip(got, expected)) if a != b), min(len(got), len(expected)))
    expect(got == expected, f"{len(got)} lines, the first wrong one is {wrong}: {got[wrong:wrong + 1]}")
    expect(process.wait(20) == 5, f"exit status {process.returncode}")
    expect(moved.relay.connections > 1, "the connection was never cut")


def cut_signals(world):
    """Signals, and the child's end, while there is no connection: they arrive once, when there is one."""
    program = r'''
import signal, sys, time
got = []
for number in range(signal.SIGRTMIN, signal.SIGRTMIN + 6): signal.signal(number, lambda n, _: got.append(n))
print("ready", flush=True)
while len(got) < 6: time.sleep(0.01)
print(*got, flush=True)
time.sleep(0.2)
sys.exit(11)
'''
    moved = Moved(world, program, relay=True).move()
    sent = [signal.SIGRTMIN + i for i in (3, 1, 5, 0, 2, 4)]
    moved.process.send_signal(sent[0])
    time.sleep(0.1)
    moved.relay.closed = True
    moved.relay.cut_all()
    for number in sent[1:]:
        moved.process.send_signal(number)
        time.sleep(0.05)
    expect(moved.process.poll() is None, "the ghost didn't wait")
    moved.relay.closed = False
    # In which order Python sees those that came together says nothing.
    said = moved.process.stdout.readline().split()
    expect(sorted(said) == [str(n) for n in sorted(sent)] and said[0] == str(sent[0]), f"not these signals: {said}")
    moved.relay.closed = True
    moved.relay.cut_all()
    wait_until(lambda: moved.state() == "ended", "the child has ended")
    expect(moved.process.poll() is None, "the ghost knows too early")
    moved.relay.closed = False
    expect(moved.process.wait(20) == 11, f"exit status {moved.process.returncode}")


def cut_for_good(world):
    """No connection for longer than --linger: SIGHUP there, 255 and a word here."""
    program = r'''
import signal, sys, os, time
signal.signal(signal.SIGHUP, lambda *_: (open("hup", "w").write(str(time.time())), os._exit(9)))
print("ready", flush=True)
while True: signal.pause()
'''
    moved = Moved(world, program, relay=True).move("--linger", "1")
    moved.relay.closed = True
    began = time.time()
    moved.relay.cut_all()
    expect(moved.process.wait(20) == 255, f"exit status {moved.process.returncode}")
    expect(time.time() - began >= 1, "it didn't wait")
    said = moved.process.stderr.read()
    expect("connection of process" in said and "is lost" in said, f"it says: {said}")
    hup = world.folder / "hup"
    wait_until(lambda: hup.exists() and hup.read_text(), "the child got SIGHUP")
    expect(float(hup.read_text()) - began >= 0.9, "the child wasn't given its time")


def other_daemon(world):
    """The daemon was killed: the child goes on, and its ghost comes back to it through another daemon."""
    moved = Moved(world, relay=True).move()
    os.kill(moved.daemon.pid, signal.SIGKILL)
    expect(moved.ask("hello") == "out hello", "it goes on without its daemon")
    other = harness.Daemon(world, None)
    host, port = other.address.rsplit(":", 1)
    moved.relay.to = (host, int(port))
    moved.relay.cut_all()
    expect(moved.ask("again") == "out again", "it goes on through another daemon")
    moved.process.stdin.write("exit 6\n")
    moved.process.stdin.close()
    expect(moved.process.wait(20) == 6, f"exit status {moved.process.returncode}")


TALKER = r'''
import os, signal, sys, time
signal.signal(signal.SIGUSR1, lambda *_: print("usr1", flush=True))
signal.signal(signal.SIGTERM, lambda *_: (print("term", flush=True), sys.exit(12)))
signal.signal(signal.SIGUSR2, lambda *_: os.kill(os.getpid(), signal.SIGSEGV))
print("ready", flush=True)
count = 0
while True:
    if os.path.exists("go"):
        print("count", count, flush=True)
        count += 1
    time.sleep(0.02)
'''


class Attached:
    """A program that was copied, and a command that stands for the copy."""

    def __init__(self, world, relay=False):
        self.world = world
        self.daemon = harness.Daemon(world, None)
        self.relay = Proxy(self.daemon.address) if relay else None
        self.address = self.relay.address if relay else self.daemon.address
        self.original = world.start(["/usr/bin/python3", "-u", "-c", TALKER], cwd=world.folder)
        expect(self.original.line() == "ready", "the program isn't ready")

    def counts(self, process):
        """The copy's output goes on without a gap."""
        world = self.world
        (world.folder / "go").touch()
        for i in range(10):
            expect(process.line() == f"count {i}", "it doesn't count on")


def attach(world):
    """rfork-trace --attach: the copy's output, signals to it, its stop and its end."""
    attached = Attached(world)
    command = world.start_trace(attached.original.pid, "--attach", attached.address, key=attached.daemon.key)
    child = wait_until(lambda: next((str(one["id"]) for one in attached.daemon.children() if one["state"] == "running"),
                                    None), "the copy runs")
    attached.counts(command)
    os.kill(command.pid, signal.SIGUSR1)
    wait_until(lambda: command.line() == "usr1", "the signal arrived")
    state = lambda: [one for one in attached.daemon.children() if str(one["id"]) == child][0]["stopped"]
    os.kill(command.pid, signal.SIGTSTP)
    wait_until(state, "the copy stops")
    wait_until(lambda: "State:\tT" in pathlib.Path(f"/proc/{command.pid}/status").read_text(), "so does the command")
    os.kill(command.pid, signal.SIGCONT)
    wait_until(lambda: not state(), "the copy goes on")
    os.kill(command.pid, signal.SIGTERM)
    wait_until(lambda: command.line() == "term", "the signal arrived")
    expect(command.wait().code == 12, "exit status")
    expect(attached.original.running(), "the original has ended")


def ctl_attach(world):
    """rforkctl attach: the same for a child that runs already, through a connection that breaks."""
    attached = Attached(world, relay=True)
    world.trace(attached.original.pid, attached.daemon.address, key=attached.daemon.key).expect(0)
    child = attached.daemon.child_id()
    command = world.start([world.program("rforkctl"), "--key", attached.daemon.key, attached.address, "attach", child])
    attached.counts(command)
    attached.relay.cut_all()
    for i in range(10, 20):
        expect(command.line() == f"count {i}", "output is missing, or comes twice")
    os.kill(command.pid, signal.SIGUSR2)
    expect(command.wait().code == -signal.SIGSEGV, "its end")
    again = world.run([world.program("rforkctl"), "--key", attached.daemon.key, attached.address, "attach", child])
    expect(again.code == -signal.SIGSEGV and again.out.startswith("count 0\n"), f"once more: {again}")
    world.run([world.program("rforkctl"), "--key", attached.daemon.key, attached.address, "attach", "99"]).refused(5)


CASES = {"numbered": numbered, "late": late, "hasty": hasty, "unread": unread, "moved-stopped": moved_stopped, "codes": codes, "timeout": timeout,
         "nohup": nohup, "group": group, "stdio": stdio, "ends": ends, "signals": signals, "killed": killed,
         "light": light, "broken": broken, "slow-reader": slow_reader, "sockets": sockets, "lost": lost,
         "attach": attach, "ctl-attach": ctl_attach, "cut": cut, "cut-signals": cut_signals,
         "cut-for-good": cut_for_good, "other-daemon": other_daemon}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")
