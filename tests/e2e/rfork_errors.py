#!/usr/bin/python3
"""rfork() that can't make a child (tests/targets/caller.c): rfork_errors.py CASE root|user

Each time: -1 with the errno of docs/ghost.md, a sentence that names what, no SIGCHLD, no child to wait for, and no
process of it on either host.
"""

import errno
import os
import random
import re
import resource
import signal
import socket
import subprocess
import sys
import threading

import harness
from harness import expect
from proxy import Listener, Proxy

LATE_MS = 2500    # a limit may be noticed so much later on a machine that does other things as well


class Failure:
    def __init__(self, said):
        found = re.fullmatch(r"failed errno=(\d+) ms=(\d+) sigchld=(\d+) left=(\d+): (.*)\n", said.out)
        expect(said.code == 0 and found, f"no failure: {said}")
        self.errno, self.ms, self.sigchld, self.left = map(int, found.groups()[:4])
        self.sentence, self.said = found.group(5), said


class Caller:
    """Calls rfork() in programs of their own."""

    def __init__(self, world, key=None, host=None):
        self.world, self.host = world, host
        self.program = world.build / "targets/caller"
        self.environment = {**os.environ, "RFORK_TRACE": world.program("rfork-trace")}
        self.environment.pop("RFORK_KEY", None)
        if key:
            self.environment["RFORK_KEY"] = str(key)

    def run(self, to, *options, before=(), environment=(), **keywords):
        words = [f"{name}={value}" for name, value in keywords.items()]
        return self.world.run([*before, self.program, to, *options, *words], host=self.host,
                              env={**self.environment, **dict(environment)})

    def fails(self, to, numbers, *texts, **keywords):
        numbers = numbers if isinstance(numbers, tuple) else (numbers,)
        there = harness.processes()
        failure = Failure(self.run(to, **keywords))
        names = [errno.errorcode[number] for number in numbers]
        said = f"{names} and {texts} were expected: {errno.errorcode.get(failure.errno)}, {failure.said}"
        expect(failure.errno in numbers and failure.sentence, said)
        for text in texts:
            expect(text in failure.sentence, said)
        expect(failure.sigchld == 0 and failure.left == 0, f"the caller noticed: {failure.said}")
        harness.nothing_left(there, f"rfork({to}) {keywords}")
        return failure

    def succeeds(self, to, **keywords):
        """The child ends with 42."""
        there = harness.processes()
        said = self.run(to, **keywords)
        expect(said.code == 0 and re.fullmatch(r"child \d+\nended exit:42 sigchld=1 left=0\n", said.out), f"{said}")
        harness.nothing_left(there, f"rfork({to}) {keywords}")


def arguments(world):
    caller = Caller(world)
    for to in ("-", ""):
        caller.fails(to, errno.EINVAL, "no host")
    for port in (-1, 65536, 70000):
        caller.fails("127.0.0.1", errno.EINVAL, "port", port=port)
    for to in ("127.0.0.1:0", "127.0.0.1:70000", "127.0.0.1:-1", "127.0.0.1:x", "127.0.0.1:", "[::1]:0", "ssh:", "ssh:@"):
        caller.fails(to, errno.EINVAL, to)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = probe.getsockname()[1]
    caller.fails(f"127.0.0.1:{closed}", errno.EHOSTUNREACH, f"127.0.0.1:{closed}", "refused")
    caller.fails("127.0.0.1", errno.EHOSTUNREACH, f"127.0.0.1:{closed}", port=closed)
    caller.fails("::1", errno.EHOSTUNREACH, f"[::1]:{closed}", port=closed)
    caller.fails("no-such-host.invalid", errno.EHOSTUNREACH, "no-such-host.invalid")
    caller.fails("x" * 300 + ".invalid", (errno.EHOSTUNREACH, errno.EINVAL), "xxx")


def tracer(world):
    """rfork-trace isn't there, or is nothing that runs."""
    daemon = harness.Daemon(world, None)
    caller = Caller(world, daemon.key)
    empty = world.folder / "empty"
    empty.mkdir()
    without = caller.environment.pop("RFORK_TRACE")
    missing = caller.fails(daemon.address, errno.ENOSYS, "rfork-trace", "PATH", before=["env", f"PATH={empty}"])
    expect(missing.ms < LATE_MS, f"it took long: {missing.said}")
    caller.fails(daemon.address, errno.ENOSYS, "RFORK_TRACE", environment={"RFORK_TRACE": "/nowhere/rfork-trace"})
    for path in ("/etc/passwd", "/etc"):
        caller.fails(daemon.address, errno.ENOSYS, path, environment={"RFORK_TRACE": path})
    for program in ("/bin/true", "/bin/false"):
        caller.fails(daemon.address, errno.EIO, "without a word", environment={"RFORK_TRACE": program})
    # And through PATH, as it is installed.
    caller.succeeds(daemon.address, before=["env", f"PATH={os.path.dirname(without)}:/usr/bin:/bin"])


def closed(world):
    """Standard descriptors that the caller has closed: rfork-trace's own take their numbers."""
    daemon = harness.Daemon(world, None)
    caller = Caller(world, daemon.key)
    for ends in ("2>&-", "<&- 2>&-", ">&- 2>&-", "<&- >&- 2>&-", "<&- >&-"):
        file = world.folder / "said"
        said = caller.run(daemon.address, f"to={file}", before=["sh", "-c", f'exec "$@" {ends}', "sh"])
        said.expect(0)
        text = file.read_text()
        expect(re.fullmatch(r"child \d+\nended exit:42 sigchld=1 left=0\n", text), f"{ends}: {text!r}")
        caller.run("127.0.0.1:0", f"to={file}", before=["sh", "-c", f'exec "$@" {ends}', "sh"]).expect(0)
        text = file.read_text()
        expect(text.startswith(f"failed errno={errno.EINVAL} ") and "127.0.0.1:0" in text, f"{ends}: {text!r}")


def interrupted(world):
    """Ctrl-C and the like reach the whole group while a daemon says nothing: the call ends then."""
    deaf = socket.create_server(("127.0.0.1", 0))
    address = f"127.0.0.1:{deaf.getsockname()[1]}"
    caller = Caller(world)
    there = harness.processes()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        for way in ("noted", "ignored", "blocked"):
            words = [caller.program, address, "limit=2500", f"{way}={number.value}"]
            program = world.start(words, env=caller.environment, start_new_session=True)
            connection = deaf.accept()[0]    # of rfork-trace, which waits for a greeting
            os.killpg(program.pid, number)
            failure = Failure(program.wait(20))
            wanted = errno.EINTR if way == "noted" else errno.ETIMEDOUT
            expect(failure.errno == wanted, f"{number.name} {way}: {failure.said}")
            if way == "noted":
                expect(failure.ms < 2000, f"it took long: {failure.said}")
            expect(failure.sigchld == 0 and failure.left == 0, f"the caller noticed: {failure.said}")
            connection.close()
            harness.nothing_left(there, f"{number.name} {way}")


def limits(world):
    """Soft limits of the caller are its own and its child's; hard ones that are too low are said at once."""
    daemon = harness.Daemon(world, None)
    caller = Caller(world, daemon.key)
    kinds = {resource.RLIMIT_AS: (1 << 20) * 16, resource.RLIMIT_DATA: 1 << 20, resource.RLIMIT_STACK: 1 << 16,
             resource.RLIMIT_NOFILE: 10}
    for kind, limit in kinds.items():
        caller.succeeds(daemon.address, soft=f"{kind}:{limit}", child="limits")
    for kind, limit in kinds.items():
        wanted = errno.EMFILE if kind == resource.RLIMIT_NOFILE else errno.ENOMEM
        caller.fails(daemon.address, wanted, "ulimit", hard=f"{kind}:{limit}")
    caller.fails(daemon.address, errno.ENOMEM, "ulimit", hard=f"{resource.RLIMIT_AS}:{6 << 20}")
    expect(not daemon.settled(), "a child runs")


def checked(world):
    """A caller with AddressSanitizer: its memory's shadow goes along, and nothing of the call upsets it."""
    daemon = harness.Daemon(world, None)
    caller = Caller(world, daemon.key)
    caller.program = world.build / "targets/caller_checked"
    if not caller.program.exists():
        raise harness.Skip("the compiler has no AddressSanitizer")
    caller.succeeds(daemon.address)
    failure = caller.fails("127.0.0.1:0", errno.EINVAL, "127.0.0.1:0")
    expect(failure.ms < LATE_MS and failure.said.err == "", f"{failure.said}")
    failure = caller.fails(daemon.address, errno.ENOSYS, environment={"RFORK_TRACE": "/nowhere/rfork-trace"})
    expect(failure.ms < LATE_MS and failure.said.err == "", f"{failure.said}")


def keys(world):
    daemon = harness.Daemon(world, None)
    other = world.folder / "other"
    world.run([world.program("rforkd"), "--make-key", other]).expect(0)
    caller = Caller(world)
    caller.fails(daemon.address, errno.EACCES, daemon.address, "key")
    caller.fails(daemon.address, errno.EACCES, daemon.address, "key", key=other)
    plain = harness.Daemon(world, None, key=None)
    caller.fails(plain.address, errno.EACCES, plain.address, "key", key=other)
    caller.fails(daemon.address, errno.EINVAL, "/nowhere/key", key="/nowhere/key")
    caller.fails(daemon.address, errno.EINVAL, "/nowhere/key", environment={"RFORK_KEY": "/nowhere/key"})
    caller.succeeds(daemon.address, key=daemon.key, environment={"RFORK_KEY": str(other)})
    expect(not daemon.settled() and not plain.settled(), "a child runs")


def bystander(world):
    """While no destination is reached nothing is forked that wait() or a SIGCHLD handler elsewhere would meet."""
    daemon = harness.Daemon(world, None)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = f"127.0.0.1:{probe.getsockname()[1]}"
    for to, number in ((closed, errno.EHOSTUNREACH), (daemon.address, errno.EACCES), ("127.0.0.1:0", errno.EINVAL)):
        said = world.run([world.build / "targets/bystander", "rfork", to], env=Caller(world).environment)
        expect(said.code == 0 and said.out.startswith(f"errno={number} strangers=0 sigchld=0 "), f"{said}")


def silent(world):
    """A daemon that says no more at some point: the limit of time ends it, whatever is waited for."""
    def keep(connection):
        while connection.recv(65536):
            pass

    deaf = socket.create_server(("127.0.0.1", 0))    # takes connections, and never hears of it
    stops = []
    for daemon in (harness.Daemon(world, None, key=None), harness.Daemon(world, None)):
        whole = Proxy(daemon.address)
        Caller(world, daemon.key).succeeds(whole.address)
        # What follows RUNNING is the child's end.
        preface, answer, ready, running = [step for step in whole.steps["down"] if step >= 16][:4]
        stops += [(daemon, "down", at) for at in (0, 8, preface, answer, ready, (ready + running) // 2)]
        stops += [(daemon, "up", at) for at in (16, 300, whole.passed["up"] // 2)]
    threads = []
    wrong = []

    def try_one(address, key, **options):
        try:
            limit = 700
            said = Caller(world, key).run(address, limit=limit, **options)
            failure = Failure(said)
            if failure.errno != errno.ETIMEDOUT or not limit <= failure.ms <= limit + LATE_MS or failure.sigchld \
                    or failure.left or address not in failure.sentence or str(limit) not in failure.sentence:
                wrong.append(f"{said}")
        except harness.Failed as reason:
            wrong.append(str(reason))

    there = harness.processes()
    proxies = []
    places = [(f"127.0.0.1:{deaf.getsockname()[1]}", None), (Listener(keep).address, None)]
    for daemon, way, at in stops:
        proxies.append(Proxy(daemon.address, freeze=True, **{way: at}))
        places.append((proxies[-1].address, daemon.key))
    # More than a connection holds on its way: the writer waits.
    proxies.append(Proxy(stops[0][0].address, freeze=True, up=1 << 20))
    places.append((proxies[-1].address, None, 60))
    for first in range(0, len(places), 4):
        threads = [threading.Thread(target=try_one, args=place[:2], kwargs={"memory": (*place, 0)[2]})
                   for place in places[first:first + 4]]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    expect(not wrong, "\n".join(wrong))
    for proxy in proxies:
        proxy.hang_up()
    harness.nothing_left(there, "after silence")


def unreachable(world):
    """A host that is on the net and answers nothing: the limit, and without one the kernel's answer."""
    here, there = world.two_hosts()
    here.call("ip", "route", "add", "192.0.2.0/24", "dev", "cable-a")
    caller = Caller(world, host=here)
    failure = caller.fails("192.0.2.7:7411", errno.ETIMEDOUT, "192.0.2.7:7411", "300", limit=300)
    expect(300 <= failure.ms <= 300 + LATE_MS, f"not within the limit: {failure.said}")
    caller.fails("192.0.2.7:7411", errno.EHOSTUNREACH, "192.0.2.7:7411")
    caller.fails("198.51.100.1:7411", errno.EHOSTUNREACH, "198.51.100.1:7411", "unreachable")


def resolver(world):
    """A name server that answers nothing."""
    here, there = world.two_hosts()
    (world.folder / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    subprocess.run(["mount", "--bind", world.folder / "resolv.conf", "/etc/resolv.conf"], check=True)
    deaf = "import socket,time\ns=socket.socket(socket.AF_INET,socket.SOCK_DGRAM)\ns.bind(('127.0.0.1',53))\n" \
           "print('up',flush=True)\ntime.sleep(60)"
    server = subprocess.Popen([*here.enter, "/usr/bin/python3", "-c", deaf], stdout=subprocess.PIPE)
    expect(server.stdout.readline() == b"up\n", "the name server")
    failure = Caller(world, host=here).fails("host-c.example", errno.ETIMEDOUT, "host-c.example", "400", limit=400)
    expect(400 <= failure.ms <= 400 + LATE_MS, f"not within the limit: {failure.said}")
    server.kill()


def broken(world):
    """The connection breaks at each of the daemon's messages, and in the middle of the image."""
    daemon = harness.Daemon(world, None)
    caller = Caller(world, daemon.key)
    whole = Proxy(daemon.address)
    caller.succeeds(whole.address)
    answered = next(step for step in whole.steps["down"] if step > 400)
    places = [("down", answered + 1), *(("up", whole.passed["up"] * part // 10) for part in (5, 8))]
    for way, at in places:
        relay = Proxy(daemon.address, **{way: at})
        caller.fails(relay.address, errno.ECONNABORTED, relay.address)
        relay.hang_up()
    for way, at in (("down", 0), ("down", 16), ("up", 16)):
        relay = Proxy(daemon.address, **{way: at})
        caller.fails(relay.address, errno.EHOSTUNREACH, relay.address)
        relay.hang_up()
    expect(not daemon.settled(), "a child runs")


def refused(world):
    """A host that doesn't take this user's processes, or has something else where the child's directory is."""
    if world.root:
        strict = harness.Daemon(world, None, "--allow-user", "nobody")
        Caller(world, strict.key).fails(strict.address, errno.ENOEXEC, "root", "--allow-root")
    here, there = world.two_hosts()
    daemon = harness.Daemon(world, there)
    folder = world.folder / "tree"
    (folder / "work").mkdir(parents=True)
    (folder / "work/data").write_text("here")
    there.call("mount", "-t", "tmpfs", "tmpfs", str(folder))
    there.call("mkdir", str(folder / "work"))
    there.call("sh", "-c", f"echo other > {folder}/work/data")
    caller = Caller(world, daemon.key, here)
    caller.fails(daemon.address, errno.ENOEXEC, f"{folder}/work/data",
                 before=["sh", "-c", f'exec 7<{folder}/work/data "$@"', "sh"])
    caller.succeeds(daemon.address)


def processes_limit(world):
    """RLIMIT_NPROC is reached by the fork, by each step that starts rfork-trace, or in it."""
    if os.geteuid() != 0:
        raise harness.Skip("it takes a user whom nobody else is")
    world.folder.chmod(0o711)
    user = random.randrange(1 << 20, 1 << 30)
    caller = Caller(world)
    caller.world.drop = ["setpriv", f"--reuid={user}", f"--regid={user}", "--clear-groups", "--inh-caps=-all",
                         "--bounding-set=-all"]
    with socket.create_server(("127.0.0.1", 0)) as probe:
        closed = f"127.0.0.1:{probe.getsockname()[1]}"
    for limit in range(1, 8):
        numbers = errno.EAGAIN if limit < 4 else (errno.EAGAIN, errno.EHOSTUNREACH)
        failure = caller.fails(closed, numbers, nproc=limit)
    expect(failure.errno == errno.EHOSTUNREACH, f"the limit should have been enough: {failure.said}")


def memory(world):
    """A host whose memory isn't enough: refused, and what needs less is taken afterwards."""
    daemon = harness.Daemon(world, None, program=["prlimit", f"--as={80 << 20}", world.program("rforkd")])
    caller = Caller(world, daemon.key)
    caller.fails(daemon.address, errno.ENOEXEC, "mmap", "Cannot allocate memory", memory=100)
    caller.succeeds(daemon.address, memory=10)
    expect(not daemon.settled(), "a child runs")


CASES = {"memory": memory, "arguments": arguments, "tracer": tracer, "checked": checked, "closed": closed, "limits": limits, "interrupted": interrupted, "keys": keys, "bystander": bystander, "silent": silent, "unreachable": unreachable, "resolver": resolver,
         "broken": broken, "refused": refused, "processes": processes_limit}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")
