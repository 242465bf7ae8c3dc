#!/usr/bin/python3
"""A host that is named ssh:USER@HOST, behind an sshd of the test's own on loopback: ssh.py CASE

copy, move, ghost   the process gets there, and ssh and rforkd end when they have nothing more to do
again               ssh is killed while a ghost uses it
cut                 the connection breaks near its end, where a move commits: exactly one side runs
users               root there runs a process as the user that it had
resolve             what became of a move, asked through another connection
refused             no such key, no rforkd there, no ssh here: one clear line each
noise               something there prints before rforkd does
words               what is no address, and what can't be asked over ssh
rfork               rfork("ssh:USER@HOST"): its child's status, signals and output, and what it says when there is none
"""

import errno
import os
import pathlib
import random
import shutil
import signal
import socket
import subprocess
import sys

import harness
from harness import IN_DOUBT, LOST, USAGE, expect, wait_until
from proxy import Proxy
from rfork_errors import Caller

SSHD = shutil.which("sshd") or "/usr/sbin/sshd"

SSHD_CONFIG = """
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host_key
AuthorizedKeysFile {folder}/authorized_keys
PidFile {folder}/sshd.pid
PermitRootLogin yes
PasswordAuthentication no
KbdInteractiveAuthentication no
UsePAM no
StrictModes no
UseDNS no
"""

SSH_CONFIG = """
Host unknown
  HostKeyAlias nobody
Host *
  HostName 127.0.0.1
  Port {port}
  User root
  IdentitiesOnly yes
  IdentityAgent none
  UserKnownHostsFile {folder}/known_hosts
  GlobalKnownHostsFile /dev/null
  StrictHostKeyChecking yes
  HostKeyAlias there
Host there 127.0.0.1
  IdentityFile {folder}/key
Host noisy
  IdentityFile {folder}/noisy
Host stranger
  IdentityFile {folder}/stranger
"""


class Sshd:
    """sshd as root on loopback, with keys of its own; root's home and ssh's configuration stay out of it."""

    def __init__(self, world):
        if not world.root:
            raise harness.Skip("sshd lets others log in only as root")
        if not os.access(SSHD, os.X_OK) or not shutil.which("ssh"):
            raise harness.Skip("sshd or ssh isn't installed")
        self.world, self.folder = world, world.folder
        for name in ("host_key", "key", "noisy", "stranger"):
            subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.folder / name], check=True)
        public = {name: (self.folder / f"{name}.pub").read_text() for name in ("host_key", "key", "noisy")}
        noise = 'command="echo Welcome to there; eval \\"$SSH_ORIGINAL_COMMAND\\""'
        (self.folder / "authorized_keys").write_text(public["key"] + f"{noise} {public['noisy']}")
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self.port = probe.getsockname()[1]
        (self.folder / "known_hosts").write_text(f"there {public['host_key']}")
        words = {"folder": self.folder, "port": self.port}
        (self.folder / "sshd_config").write_text(SSHD_CONFIG.format(**words))
        (self.folder / "ssh_config").write_text(SSH_CONFIG.format(**words))
        os.makedirs("/run/sshd", mode=0o755, exist_ok=True)
        log = self.folder / "sshd.log"
        self.process = world.start([SSHD, "-D", "-e", "-f", self.folder / "sshd_config"], log=log)

        def listening():
            if not self.process.running():
                raise harness.Skip(f"sshd can't run here: {log.read_text()}")
            return "Server listening" in log.read_text()

        wait_until(listening, "sshd listens")
        self.state = self.folder / "state"
        self.environment = dict(os.environ, RFORK_SSH=f"ssh -F {self.folder}/ssh_config",
                                RFORK_RFORKD=f"{world.program('rforkd')} --state {self.state}")

    def trace(self, pid, *arguments, **environment):
        return self.world.trace(pid, *arguments, env={**self.environment, **environment})

    def ctl(self, *arguments):
        return self.world.run([self.world.program("rforkctl"), *arguments], env=self.environment)

    def log(self):
        logs = list((self.state / "logs").glob("*.log"))
        expect(len(logs) == 1, f"one log was expected: {logs}")
        return logs[0]


def running(sshd, name):
    """Pids and command lines of this test's processes of this name: a child's init has its rforkd's, and another
    name."""
    found = {}
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            line = (entry / "cmdline").read_text(errors="replace").replace("\0", " ")
            if (entry / "comm").read_text().strip() in (name, f"{name}-worker") and str(sshd.folder) in line:
                found[int(entry.name)] = line
        except OSError:
            pass
    return found


def all_over(sshd):
    for name in ("rforkd", "ssh"):
        wait_until(lambda: not running(sshd, name), lambda: f"it ends: {running(sshd, name)}")


def alive(pid):
    try:
        return open(f"/proc/{pid}/stat", encoding="utf-8").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def copy(world):
    sshd = Sshd(world)
    target = world.target("steady")
    check = sshd.trace(target.real_pid, "ssh:there", "--check", "--json").expect(0, err="").json()
    expect(check["possible"] and check["paused_ns"], f"{check}")
    all_over(sshd)
    result = sshd.trace(target.real_pid, "ssh:there", "--json").expect(0, err="").json()
    all_over(sshd)
    expect(alive(result["child_pid"]), "the child ended with its connection")
    expect(target.running(), "the original of a copy ended")
    world.go()
    target.wait().expect(0, out="ok\n")
    wait_until(lambda: not alive(result["child_pid"]), "the child ends too")
    expect(sshd.log().read_text() == "ok\n", f"the child said {sshd.log().read_text()!r}")


def move(world):
    sshd = Sshd(world)
    target = world.target("steady")
    address = f"ssh:root@127.0.0.1:{sshd.port}"
    said = sshd.trace(target.real_pid, "--move", "--no-ghost", address).expect(0, err=f"→ {address} pid")
    expect(target.wait().code == -9, "the original wasn't ended")
    all_over(sshd)
    child = int(said.err.split(" pid ")[1].split(",")[0])
    expect(alive(child), "the child ended with its connection")
    world.go()
    wait_until(lambda: not alive(child), "the child ends")
    expect(sshd.log().read_text() == "ok\n", f"the child said {sshd.log().read_text()!r}")


def ghost(world):
    """ssh outlives rfork-trace, for the ghost, and ends with it."""
    sshd = Sshd(world)
    target = world.target("steady")
    said = sshd.trace(target.real_pid, "--move", "ssh:there").expect(0)
    child = int(said.err.split(" pid ")[1].split(",")[0])
    expect(target.running() and alive(child), "ghost and child live")
    expect(running(sshd, "rforkd") and running(sshd, "ssh"), "the connection doesn't stay")
    world.go()
    target.wait().expect(0, out="ok\n")
    expect(not alive(child), "the child outlived its ghost")
    all_over(sshd)


def again(world):
    """A ghost whose ssh was killed calls again, and reaches its child through another rforkd."""
    sshd = Sshd(world)
    target = world.target("steady")
    said = sshd.trace(target.real_pid, "--move", "ssh:there").expect(0)
    child = int(said.err.split(" pid ")[1].split(",")[0])
    first = set(running(sshd, "ssh"))
    for pid in first:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: set(running(sshd, "ssh")) - first, "there is another ssh")
    expect(target.running() and alive(child), "ghost and child live")
    world.go()
    target.wait().expect(0, out="ok\n")
    all_over(sshd)


def users(world):
    sshd = Sshd(world)
    world.folder.chmod(0o711)
    folder = world.folder / "nobody"
    folder.mkdir()
    os.chown(folder, 65534, 65534)
    process = world.start(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups",
                           world.build / "targets/steady", folder], cwd="/")
    expect(process.line().startswith("ready"), "nobody's process isn't ready")
    child = sshd.trace(process.pid, "--move", "--no-ghost", "--json", "ssh:there").expect(0).json()["child_pid"]
    uid = [line for line in open(f"/proc/{child}/status", encoding="utf-8") if line.startswith("Uid")]
    expect(uid[0].split()[1:] == ["65534"] * 4, f"ids of the child: {uid}")
    world.go(folder)
    wait_until(lambda: not alive(child), "the child ends")
    expect(sshd.log().read_text() == "ok\n", f"the child said {sshd.log().read_text()!r}")


def children_besides(pid, called="steady"):
    found = []
    for entry in pathlib.Path("/proc").glob("[0-9]*"):
        try:
            name = (entry / "comm").read_text().strip()
        except OSError:
            continue
        if name == called and int(entry.name) != pid and alive(int(entry.name)):
            found.append(int(entry.name))
    return found


def cut(world):
    sshd = Sshd(world)
    source = random.Random(os.environ.get("RFORK_TEST_SEED", str(os.getpid())))
    target, outcomes = None, []

    def send(**limits):
        nonlocal target
        if target is None or not target.running():
            folder = world.folder / f"target-{world.number()}"
            folder.mkdir()
            target = world.target("steady", folder=folder)
        relay = Proxy(f"127.0.0.1:{sshd.port}", **limits)
        said = sshd.trace(target.real_pid, "--move", "--no-ghost", f"ssh:there:{relay.address.split(':')[1]}")
        relay.close()
        all_over(sshd)
        children = children_besides(target.pid)
        original = target.running() and harness.state_of(target.pid).count(": T ") == 0
        context = f"{limits}: original runs: {original}, children: {children}\n{said}"
        expect(said.code in (0, LOST), f"an unexpected exit code: {context}")
        expect(original == (said.code != 0) and len(children) == (said.code == 0), f"not one side runs: {context}")
        outcomes.append(said.code)
        for child in children:
            os.kill(child, signal.SIGKILL)
        wait_until(lambda: not children_besides(target.pid), "the child is gone")
        return relay.passed

    passed = send()
    for way in ("up", "down"):
        for at in sorted(passed[way] - source.randrange(900) for _ in range(8)):
            send(**{way: at})
    expect(LOST in outcomes, f"no cut came before the commit: {outcomes}")


def resolve(world):
    sshd = Sshd(world)
    target = world.target("steady")
    sshd.trace(target.real_pid, "--move", "--no-ghost", "ssh:there").expect(0)
    move_id = sshd.log().stem
    sshd.ctl("ssh:there", "resolve", move_id).expect(0, out="it was let run there")
    sshd.ctl("ssh:there", "resolve", "0" * 32).expect(IN_DOUBT, out="nothing is known of it")
    # One that never came to the grant: the question decides.
    record = sshd.state / "moves" / f"{move_id}.move"
    words = record.read_text().split()
    record.write_text(" ".join(["receiving", *words[1:]]).ljust(127) + "\n")
    for _ in range(2):
        sshd.ctl("ssh:there", "resolve", move_id).expect(0, out="never will be")
    # Neither does a question know what came of a grant, nor of what was before a start of that host.
    for state, boot, text in (("granted", words[1], "about to let it run"), ("receiving", "other", "started anew")):
        record.write_text(" ".join([state, boot, *words[2:]]).ljust(127) + "\n")
        sshd.ctl("ssh:there", "resolve", move_id).expect(IN_DOUBT, out=text)
    world.go()


def refused(world):
    sshd = Sshd(world)
    target = world.target("steady")
    for options in ([], ["--move"]):
        said = sshd.trace(target.real_pid, "ssh:stranger", *options)
        said.refused(LOST, "ssh:stranger: ", "Permission denied (publickey)")
        sshd.trace(target.real_pid, "ssh:nobody-of-this-name@there", *options).refused(LOST, "Permission denied")
        said = sshd.trace(target.real_pid, "ssh:there", *options, RFORK_RFORKD="/nowhere/rforkd")
        said.refused(LOST, "ssh:there has no rforkd in its PATH", "/nowhere/rforkd", "RFORK_RFORKD")
    sshd.trace(target.real_pid, "ssh:there:1").refused(LOST, "ssh:there:1: ", "port 1: Connection refused")
    said = sshd.trace(target.real_pid, "ssh:there", RFORK_SSH="/nowhere/ssh")
    said.refused(LOST, "/nowhere/ssh can't be run", "RFORK_SSH")
    sshd.trace(target.real_pid, "ssh:there", RFORK_RFORKD="true").refused(LOST, "ssh:there", "closed the connection")
    sshd.trace(target.real_pid, "ssh:there", RFORK_RFORKD="cat").refused(LOST, "ssh:there")
    all_over(sshd)
    expect(target.running(), "the original ended")
    world.go()
    target.wait().expect(0, out="ok\n")


def noise(world):
    sshd = Sshd(world)
    target = world.target("steady")
    said = sshd.trace(target.real_pid, "ssh:noisy")
    said.refused(LOST, "ssh:noisy sent 17 bytes of something else first: 'Welcome to there'", "start-up file")
    said = sshd.trace(target.real_pid, "ssh:noisy", RFORK_RFORKD="true")
    said.refused(LOST, "ssh:noisy sent 17 bytes of something else than", "'Welcome to there'")
    world.go()
    target.wait().expect(0, out="ok\n")


def words(world):
    target = world.target("steady")
    for address, text in (("ssh:", "names no host"), ("ssh:@host", "names no user"), ("ssh:ada@", "names no host"),
                          ("ssh:host:x", "'x' is no port"), ("ssh:-oProxyCommand=id", "'-'"),
                          ("ssh:-l@host", "'-'"), ("ssh:7411", "a host named ssh")):
        world.trace(target.real_pid, address).refused(USAGE, address, text)
    for command in (["ps"], ["logs", "1"], ["kill", "1"], ["wait", "1"], ["rm", "1"]):
        said = world.run([world.program("rforkctl"), "ssh:ada@host", *command])
        said.refused(USAGE, "ssh:ada@host", "only resolve")
    rforkd = world.program("rforkd")
    world.run([rforkd, "--stdio", "--listen", "127.0.0.1:0"]).refused(USAGE, "--stdio", "--listen")
    world.run([rforkd, "--stdio", "--key", world.key()]).refused(USAGE, "--stdio", "--key")
    world.run([rforkd, "--stdio", "--state", world.folder / "state"])  # its client is gone: it ends
    world.go()
    target.wait().expect(0, out="ok\n")


def rfork(world):
    sshd = Sshd(world)
    before = harness.processes()
    caller = Caller(world)
    caller.environment.update(sshd.environment)
    host = "ssh:root@there"
    caller.succeeds(host)
    all_over(sshd)
    for address in (host, f"ssh:root@127.0.0.1:{sshd.port}"):
        said = caller.run(address, child="lines:3")
        said.expect(0, out="ended exit:0 sigchld=1 left=0\n", err="line 0\nline 1\nline 2\n")
    # Signals go there: a stop, going on, and an end.
    program = world.start([caller.program, host, "child=pause"], env=caller.environment)
    ghost = int(program.line().split()[1])
    found = [pid for pid in children_besides(0, "caller") if pid not in (ghost, program.pid)]
    expect(len(found) == 1 and running(sshd, "ssh"), f"the child: {found}")
    state = lambda pid: pathlib.Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    for number, states in ((signal.SIGSTOP, "T"), (signal.SIGCONT, "RS")):
        os.kill(ghost, number)
        wait_until(lambda: state(found[0]) in states, f"{number} there")
    os.kill(ghost, signal.SIGTERM)
    program.wait().expect(0, out="ended signal:15 sigchld=")
    wait_until(lambda: not alive(found[0]), "the child has ended")
    all_over(sshd)
    # And what it says when there is no child.
    caller.fails("ssh:stranger", errno.EACCES, "ssh:stranger", "Permission denied")
    caller.fails("ssh:unknown", errno.EACCES, "ssh:unknown", "Host key verification failed")
    caller.fails("ssh:there:1", errno.EHOSTUNREACH, "ssh:there:1", "Connection refused")
    caller.fails(host, errno.ENOSYS, "/nowhere/rforkd", environment={"RFORK_RFORKD": "/nowhere/rforkd"})
    caller.fails(host, errno.EHOSTUNREACH, "/nowhere/ssh", environment={"RFORK_SSH": "/nowhere/ssh"})
    failure = caller.fails(host, errno.ETIMEDOUT, host, limit=500, environment={"RFORK_RFORKD": "cat >/dev/null #"})
    expect(failure.ms < 3000, f"it took long: {failure.said}")
    caller.fails("ssh:", errno.EINVAL, "ssh:")
    all_over(sshd)
    harness.nothing_left(before, "after all")


CASES = {"rfork": rfork, "copy": copy, "move": move, "ghost": ghost, "again": again, "cut": cut, "users": users, "resolve": resolve,
         "refused": refused, "noise": noise, "words": words}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=len(sys.argv) > 2 and sys.argv[2] == "user")
