"""What the end-to-end tests share: a world to run programs in, two hosts in it, and a judge.

A test is a function that gets a World and is run by main(). It starts programs with the world, and nothing
that it starts outlives it: as root the whole test runs in a pid namespace of its own, whose end takes
every process along even if the test is killed; else the test adopts orphans and ends them. Hosts are namespaces
without names, so they vanish too. Every wait has a deadline.

Exit status: 0 passed, 1 failed (with what each program said), 77 skipped, with the reason.
"""

import ctypes
import json
import os
import pathlib
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]
BUILD = pathlib.Path(os.environ.get("RFORK_BUILD", REPOSITORY / "build/dev"))
DEADLINE = 60.0        # seconds for a program to do what it is waited for
TEST_DEADLINE = int(os.environ.get("RFORK_TEST_DEADLINE", "170"))
ORDINARY = 54321       # a user and group without name and without any right

# Exit codes of rfork's programs: src/base/error.h.
INTERNAL, USAGE, CANNOT_TRACE, CANNOT_CARRY, REFUSED, LOST, IN_DOUBT, BAD_IMAGE = range(1, 9)
INTERRUPTED = 130


class Skip(Exception):
    """This machine can't run the test."""


class Failed(Exception):
    """What is judged isn't so."""


def expect(condition, message):
    if not condition:
        raise Failed(message)


def wait_until(condition, what, seconds=DEADLINE):
    """Polls; the condition is what is waited for, the time only bounds it. `what` may be a function."""
    end = time.monotonic() + seconds
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise Failed(f"not within {seconds:.0f} s: {what() if callable(what) else what}")
        time.sleep(0.005)


class Result:
    """How a program ended and what it said."""

    def __init__(self, argv, code, out, err):
        self.argv, self.code, self.out, self.err = argv, code, out, err

    def __str__(self):
        command = " ".join(map(str, self.argv))
        return f"{command}\n  exit {self.code}\n  out: {self.out!r}\n  err: {self.err!r}"

    def expect(self, code=0, **says):
        """`err` or `out`: a text, or several, that must be in what it said."""
        expect(self.code == code, f"exit code {code} was expected of {self}")
        for stream, texts in says.items():
            for text in [texts] if isinstance(texts, str) else texts:
                expect(text in getattr(self, stream), f"{text!r} was expected in {stream} of {self}")
        return self

    def refused(self, code, *texts, lines=1):
        """It ended with `code` and said why in `lines` clear lines, with these texts."""
        self.expect(code, err=list(texts))
        said = [line for line in self.err.splitlines() if line.strip()]
        expect(len(said) == lines, f"{lines} line was expected on stderr of {self}")
        for word in ("terminate called", "what():", "Sanitizer", "basic_string", "std::"):
            expect(word not in self.err, f"no clear line: {self}")
        return self

    def json(self):
        try:
            return json.loads(self.out)
        except ValueError:
            raise Failed(f"no JSON on stdout of {self}") from None


class Program:
    """A program that runs. stdout and stderr go to pipes or, with `log`, to one file."""

    def __init__(self, argv, popen, log=None):
        self.argv, self.popen, self.log = argv, popen, log
        self.early = ""    # lines that were read before the end
        self.ahead = b""   # read, and not asked for yet: communicate() must not miss it
        self.ended = None

    @property
    def pid(self):
        return self.popen.pid

    def running(self):
        return self.popen.poll() is None

    def line(self):
        """The next line of its stdout."""
        while b"\n" not in self.ahead:
            data = os.read(self.popen.stdout.fileno(), 4096)
            if not data:
                break
            self.ahead += data
        line, _, self.ahead = self.ahead.partition(b"\n")
        text = line.decode(errors="replace")
        self.early += text + "\n"
        return text

    def wait(self, seconds=DEADLINE):
        if self.ended is None:
            try:
                out, err = self.popen.communicate(timeout=seconds)
            except subprocess.TimeoutExpired:
                raise Failed(f"not ended within {seconds} s: {self.argv}\n{state_of(self.pid)}") from None
            text = self.log.read_text() if self.log else self.early + self.ahead.decode(errors="replace") + (out or "")
            self.ended = Result(self.argv, self.popen.returncode, text, err or "")
        return self.ended

    def signal(self, number):
        if self.running():
            os.kill(self.pid, number)

    def kill(self):
        self.signal(signal.SIGKILL)
        return self.wait()


def state_of(pid):
    """For the person who reads a failure: what the threads of a process are doing."""
    lines = []
    for task in sorted(pathlib.Path(f"/proc/{pid}/task").glob("*")):
        try:
            name = (task / "comm").read_text().strip()
            state = (task / "stat").read_text().rpartition(")")[2].split()[0]
            where = (task / "wchan").read_text()
            lines.append(f"  thread {task.name} {name}: {state} {where}")
        except OSError:
            pass
    return "\n".join(lines)


def children_of(pid):
    found = []
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        try:
            found += [int(word) for word in task.read_text().split()]
        except OSError:
            pass
    return found


def processes():
    """Every process that lives here or hasn't been waited for: of this test's namespace, or its descendants."""
    if "RFORK_TEST_ISOLATED" in os.environ:
        return {int(entry.name) for entry in pathlib.Path("/proc").glob("[0-9]*")}
    found, fresh = set(), {os.getpid()}
    while fresh:
        found |= fresh
        fresh = {child for pid in fresh for child in children_of(pid)} - found
    return found


def nothing_left(before, what, seconds=10):
    """Waits until no process is there that wasn't in `before`."""
    def fresh():
        named = {}
        for pid in processes() - before:
            try:
                command = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                named[pid] = pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[0] + ") " + command
            except OSError:
                pass    # it has ended meanwhile
        return named

    wait_until(lambda: not fresh(), lambda: f"{what}: no process is left: {fresh()}", seconds)


class Host:
    """A host made of namespaces: network and name always, pids and mounts too for `apart`."""

    def __init__(self, world, name, apart):
        self.name, self.apart = name, apart
        flags = ["--net", "--uts"]
        if apart:
            flags += ["--pid", "--fork", "--kill-child=KILL", "--mount", "--mount-proc"]
        # cat ends when this test does, and the namespaces with it.
        self.holder = subprocess.Popen(["unshare", *flags, "sh", "-c", "echo up; exec cat"],
                                       stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        world.holders.append(self.holder)
        if self.holder.stdout.readline() != "up\n":
            raise Skip("network namespaces can't be made here")
        self.pid = children_of(self.holder.pid)[0] if apart else self.holder.pid
        flags = ["--net", "--uts"] + (["--pid", "--mount"] if apart else [])
        self.enter = ["nsenter", f"--target={self.pid}", *flags, "--"]
        subprocess.run(self.enter + ["hostname", name], check=True)

    def call(self, *argv):
        subprocess.run(self.enter + list(argv), check=True)


class Daemon:
    """rforkd on a host."""

    def __init__(self, world, host, *options, key=True, program=None):
        self.world, self.host = world, host
        number = world.number()
        self.key = world.key() if key is True else key
        self.state = world.folder / f"state-{number}"
        port_file = world.folder / f"port-{number}"
        argv = program or [world.program("rforkd")]
        address = host.address if host else "127.0.0.1"
        argv = [*argv, "--listen", f"{address}:0", "--port-file", str(port_file), "--state", str(self.state)]
        if self.key:
            argv += ["--key", str(self.key)]
        if world.root and not any(str(option).startswith("--allow") for option in options):
            argv += ["--allow-root"]
        log = world.folder / f"rforkd-{number}.log"
        self.process = world.start(argv + list(options), host=host, log=log)

        def listening():
            expect(self.process.running(), f"rforkd ended: {log.read_text()}")
            return port_file.exists() and port_file.read_text().strip()

        self.port = int(wait_until(listening, "rforkd listens"))
        self.address = f"{address}:{self.port}"

    @property
    def pid(self):
        """As this test sees it: behind nsenter's fork."""
        return children_of(self.process.pid)[0] if self.host and self.host.apart else self.process.pid

    def ctl(self, *arguments, host=None, key=True, to=None):
        """rforkctl on the daemon's own host unless told otherwise."""
        options = ["--key", str(self.key)] if key is True and self.key else []
        return self.world.run([self.world.program("rforkctl"), *options, to or self.address, *arguments],
                              host=host or self.host)

    def children(self):
        listed = self.ctl("ps", "--json").expect(0).json()
        return listed["children"] if isinstance(listed, dict) else listed

    def child_id(self, known=()):
        """The id of the one child that isn't in `known`."""
        fresh = [str(child["id"]) for child in self.children() if str(child["id"]) not in known]
        expect(len(fresh) == 1, f"one new child was expected: {self.children()}")
        return fresh[0]

    def living(self):
        """Children that run; nothing must be under way any more for the answer to mean something."""
        return [child for child in self.children() if child["state"] not in ("ended",)]

    def settled(self):
        """Children that run, once no restore is under way."""
        wait_until(lambda: all(child["state"] in ("running", "ended") for child in self.children()),
                   "no restore is under way")
        return self.living()

    def finished(self, child):
        """Waits for a child's end: a Result with its exit status and its log."""
        code = self.ctl("wait", child).code
        log = self.ctl("logs", child).expect(0).out
        return Result([f"child {child}"], code, log, "")


class World:
    """Where one test happens. `user` runs everything as an ordinary user without any capability."""

    def __init__(self, user=False):
        self.user = user
        self.root = os.geteuid() == 0 and not user
        self.counter = 0
        self.programs, self.holders = [], []
        self.made_key = None
        self.folder = pathlib.Path(tempfile.mkdtemp(prefix="rfork-test-"))
        self.drop = []
        if user and os.geteuid() == 0:
            os.chown(self.folder, ORDINARY, ORDINARY)
            self.drop = ["setpriv", f"--reuid={ORDINARY}", f"--regid={ORDINARY}", "--clear-groups",
                         "--inh-caps=-all", "--bounding-set=-all"]
        self.build = self.reachable_build()

    def reachable_build(self):
        """The built programs, copied if the ordinary user can't reach them."""
        probe = subprocess.run(self.drop + ["test", "-x", str(BUILD / "bin/rfork-trace")], check=False)
        if probe.returncode == 0:
            return BUILD
        if not (BUILD / "bin/rfork-trace").exists():
            raise Failed(f"{BUILD}/bin/rfork-trace isn't built")
        copy = self.folder / "build"
        for part in ("bin", "targets", "samples"):
            shutil.copytree(BUILD / part, copy / part)
        return copy

    def number(self):
        self.counter += 1
        return self.counter

    def program(self, name):
        return str(self.build / "bin" / name)

    def key(self):
        if self.made_key is None:
            self.made_key = self.folder / "key"
            self.run([self.program("rforkd"), "--make-key", str(self.made_key)]).expect(0)
        return self.made_key

    def start(self, argv, host=None, log=None, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
              stderr=subprocess.PIPE, cwd=None, **popen):
        argv = list(map(str, argv))
        if log:
            stdout = stderr = open(log, "wb")
        child = subprocess.Popen((host.enter if host else []) + self.drop + argv, stdin=stdin, stdout=stdout,
                                 stderr=stderr, text=True, errors="replace", cwd=cwd or self.folder, **popen)
        if log:
            stdout.close()
        self.programs.append(Program(argv, child, log))
        return self.programs[-1]

    def run(self, argv, host=None, seconds=DEADLINE, **options):
        return self.start(argv, host, **options).wait(seconds)

    def target(self, name, *arguments, host=None, folder=None, **options):
        """Starts a program of tests/targets that is ready when this returns. Its pid is `real_pid`."""
        folder = folder or self.folder
        process = self.start([self.build / "targets" / name, folder, *arguments], host, **options)
        line = process.line()
        if line.startswith("skip: "):
            raise Skip(line[6:])
        if not line.startswith("ready "):
            raise Failed(f"the target isn't ready: {process.kill()}")
        process.real_pid = int(line.split()[1])
        return process

    def go(self, folder=None):
        ((folder or self.folder) / "go").touch()

    def trace(self, pid, *arguments, host=None, key=None, **options):
        argv = [self.program("rfork-trace"), *(["--key", key] if key else []), pid, *arguments]
        return self.run(argv, host, **options)

    def start_trace(self, pid, *arguments, host=None, key=None, **options):
        argv = [self.program("rfork-trace"), *(["--key", key] if key else []), pid, *arguments]
        return self.start(argv, host, **options)

    def two_hosts(self):
        """Two hosts with a cable between them; the second has pids and mounts of its own."""
        if os.geteuid() != 0:
            raise Skip("two hosts are made as root only")
        a, b = Host(self, "host-a", False), Host(self, "host-b", True)
        network = f"10.{random.randrange(256)}.{random.randrange(256)}"
        subprocess.run(["ip", "link", "add", "cable-a", "netns", str(a.pid), "type", "veth",
                        "peer", "name", "cable-b", "netns", str(b.pid)], check=True)
        for host, end, number in ((a, "cable-a", 1), (b, "cable-b", 2)):
            host.address = f"{network}.{number}"
            host.call("ip", "address", "add", f"{host.address}/30", "dev", end)
            host.call("ip", "link", "set", end, "up")
            host.call("ip", "link", "set", "lo", "up")
        return a, b

    def close(self, failed):
        for program in self.programs:
            if program.running():
                program.popen.kill()
        for holder in self.holders:
            holder.stdin.close()
            holder.kill()
            holder.wait()
        for program in self.programs:
            program.popen.wait()
        if failed:
            for log in sorted(self.folder.glob("*.log")):
                print(f"--- {log.name}\n{log.read_text(errors='replace')}", file=sys.stderr)
        end_descendants()
        shutil.rmtree(self.folder, ignore_errors=True)


def end_descendants():
    """Kills and reaps whatever still descends from this test."""
    for _ in range(100):
        left = children_of(os.getpid())
        for pid in left:
            os.kill(pid, signal.SIGKILL)
        try:
            while os.waitpid(-1, os.WNOHANG if not left else 0)[0]:
                pass
        except ChildProcessError:
            return


def main(test, *arguments, user=False, isolated=True):
    """Runs `test(world, *arguments)` and exits."""
    if os.geteuid() == 0 and isolated and "RFORK_TEST_ISOLATED" not in os.environ:
        os.environ["RFORK_TEST_ISOLATED"] = "1"
        # The shell is the namespace's init and reaps orphans.
        os.execvp("unshare", ["unshare", "--pid", "--ipc", "--fork", "--kill-child=KILL", "--mount", "--mount-proc",
                              "sh", "-c", '"$@"; exit $?', "sh", sys.executable, "-B", *sys.argv])
    if "RFORK_TEST_ISOLATED" not in os.environ:
        pr_set_child_subreaper = 36
        ctypes.CDLL(None).prctl(pr_set_child_subreaper, 1, 0, 0, 0)
    os.umask(0o022)

    def give_up(number, _frame):
        raise Failed(f"given up: signal {signal.Signals(number).name}")

    for number in (signal.SIGALRM, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, give_up)
    signal.alarm(TEST_DEADLINE)
    code, world = 1, None
    try:
        world = World(user)
        test(world, *arguments)
        code = 0
    except Skip as reason:
        print(f"skipped: {reason}")
        code = 77
    except Failed as reason:
        print(f"FAILED: {reason}", file=sys.stderr)
    except Exception:
        traceback.print_exc()
    signal.alarm(0)
    if world:
        world.close(code == 1)
    sys.stdout.flush()
    os._exit(code)
