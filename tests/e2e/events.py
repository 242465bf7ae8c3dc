#!/usr/bin/python3
"""What a daemon tells of its children: rforkctl events, rforkctl monitor, and what ps says they use.

events.py CASE root|user
"""

import json
import os
import signal
import subprocess
import sys

import harness
from harness import REFUSED, expect, wait_until
from ghost import Moved
from proxy import Proxy

BEGINNING = ["offered", "received", "restored", "running"]
PORT = 7412  # in a network namespace of its own

# Sends each argument as a datagram, from one socket.
SENDER = """
import socket, sys
s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
for line in sys.argv[3:]: s.sendto(line.encode("latin-1"), (sys.argv[1], int(sys.argv[2])))
"""


def events(daemon, *arguments):
    said = daemon.ctl("events", *arguments).expect(0)
    return [json.loads(line) for line in said.out.splitlines()]


def kinds(daemon, *arguments):
    return [event["event"] for event in events(daemon, *arguments)]


def until(daemon, child, kind):
    """The events of a child, once there is one of this kind."""
    return wait_until(lambda: (found := events(daemon, child)) and found[-1]["event"] == kind and found,
                      lambda: f"{kind} is the last of {events(daemon, child)}", 10)


def follower(world, daemon, *arguments):
    options = ["--key", daemon.key] if daemon.key else []
    return world.start([world.program("rforkctl"), *options, daemon.address, "events", "-f", *arguments],
                       host=daemon.host)


def sleeper(world):
    """A process that does nothing; not a target, whose name would be another each time."""
    process = world.start(["/usr/bin/python3", "-c", "import time\nprint('ready', flush=True)\ntime.sleep(1000)"])
    expect(process.line() == "ready", "it isn't ready")
    return process


def detached(world):
    """A copy that nobody attends, waited for by the daemon itself and by an init between them."""
    process = sleeper(world)
    daemon = harness.Daemon(world, None)
    for number, pid_mode in enumerate(("new", "keep"), 1):
        world.trace(process.pid, "--pid", pid_mode, daemon.address, key=daemon.key).expect(0)
        child = str(number)
        first = events(daemon, child)
        expect([event["event"] for event in first] == BEGINNING, f"{first}")
        entry = [entry for entry in daemon.children() if entry["id"] == child][0]
        for event in first:
            for name in ("move_id", "name", "origin", "origin_pid"):
                expect(event[name] == entry[name], f"{name}: {event}, {entry}")
            expect(event["host"] == os.uname().nodename and event["child_id"] == child, f"{event}")
            expect(event["time"].endswith("Z") and event["time_ns"] > 10**18, f"{event}")
        expect([event["pid"] for event in first] == [0, 0] + [entry["pid"]] * 2, f"{first}")
        for name, last in (("STOP", "stopped"), ("CONT", "continued"), ("TERM", "ended")):
            daemon.ctl("kill", child, name).expect(0)
            sent, came = until(daemon, child, last)[-2:]
            number = signal.Signals["SIG" + name]
            expect(sent["event"] == "signalled" and sent["signal"] == number, f"{sent}")
            expect(last == "continued" or came["signal"] == number, f"{came}")
        expect(came["exit_code"] == 128 + signal.SIGTERM and not came["core_dumped"], f"{came}")
        expect(kinds(daemon, child).count("ended") == 1, "it ended more than once")
    every = events(daemon)
    expect([event["sequence"] for event in every] == list(range(1, len(every) + 1)), f"{every}")
    expect([event["time_ns"] for event in every] == sorted(event["time_ns"] for event in every), f"{every}")
    expect({event["child_id"] for event in every} == {"1", "2"}, f"{every}")
    daemon.ctl("rm", "2").expect(0)
    expect(kinds(daemon, "2")[-1] == "ended", "with the child its events are gone")
    daemon.ctl("events", "3").refused(REFUSED, "3")


def exits(world):
    """An exit status; and a restore that is never let run."""
    script = "import os, sys, time\nprint('ready', flush=True)\n" \
             "while not os.path.exists(sys.argv[1]): time.sleep(0.01)\nsys.exit(7)"
    process = world.start(["/usr/bin/python3", "-c", script, world.folder / "leave"])
    process.line()
    daemon = harness.Daemon(world, None)
    world.trace(process.pid, daemon.address, key=daemon.key).expect(0)
    (world.folder / "leave").touch()
    end = until(daemon, "1", "ended")[-1]
    expect(end["exit_code"] == 7 and end["signal"] is None, f"{end}")
    relay = Proxy(daemon.address, up=300_000)
    target = world.target("steady")
    world.trace(target.real_pid, relay.address, key=daemon.key).refused(harness.LOST)
    said = until(daemon, "2", "lost")
    expect([event["event"] for event in said] == ["offered", "lost"] and said[-1]["reason"], f"{said}")


def follow(world):
    """New events come by themselves; of one child if asked; until interrupted."""
    process = sleeper(world)
    daemon = harness.Daemon(world, None)
    every = follower(world, daemon)
    for _ in range(2):
        world.trace(process.pid, daemon.address, key=daemon.key).expect(0)
    expect([json.loads(every.line())["event"] for _ in range(8)] == BEGINNING * 2, f"{every.early}")
    one = follower(world, daemon, "2")
    expect([json.loads(one.line())["event"] for _ in range(4)] == BEGINNING, f"{one.early}")
    for child in "1", "2":
        daemon.ctl("kill", child, "KILL").expect(0)
        said = [json.loads(every.line()) for _ in range(2)]
        expect([event["event"] for event in said] == ["signalled", "ended"], f"{said}")
        expect(said[1]["child_id"] == child and said[1]["signal"] == signal.SIGKILL, f"{said}")
    expect([json.loads(one.line())["child_id"] for _ in range(2)] == ["2", "2"], f"{one.early}")
    for program in every, one:
        expect(program.running(), "it ended by itself")
        program.signal(signal.SIGINT)
        program.wait(10).expect(harness.INTERRUPTED)


def ghosted(world):
    """A moved process: what its ghost was sent, that it stopped and went on there, and how it ended."""
    moved = Moved(world).move()
    expect(kinds(moved.daemon) == BEGINNING, f"{kinds(moved.daemon)}")
    for number, state in ((signal.SIGSTOP, "stopped"), (signal.SIGCONT, "continued")):
        moved.process.send_signal(number)
        last = until(moved.daemon, moved.id, state)
        expect([event["signal"] for event in last if event["event"] == "signalled"][-1] == number, f"{last}")
    moved.process.send_signal(signal.SIGUSR1)
    expect(moved.process.stdout.readline() == "usr1\n", "the signal didn't arrive")
    expect(kinds(moved.daemon)[-1] == "signalled", f"{kinds(moved.daemon)}")
    moved.process.stdin.close()
    expect(moved.process.wait(10) == 7, "exit status")
    end = until(moved.daemon, moved.id, "ended")[-1]
    expect(end["exit_code"] == 7 and end["host"] == "host-b" and end["origin"] == "host-a", f"{end}")
    wait_until(lambda: moved.daemon.children()[0]["cpu_ns"], "it is known what it used", 10)


def lost(world):
    """The connection to the ghost goes, and then the process that stayed with the child."""
    program = "import signal, time\nsignal.signal(signal.SIGHUP, signal.SIG_IGN)\nprint('ready', flush=True)\n" \
              "while True: time.sleep(1)"
    moved = Moved(world, program).move("--linger", "1")
    tracer = int([line for line in open(f"/proc/{moved.process.pid}/status") if line.startswith("TracerPid")][0].split()[1])
    os.kill(tracer, signal.SIGKILL)
    wait_until(lambda: "lost" in kinds(moved.daemon), "it is lost", 10)
    wait_until(lambda: kinds(moved.daemon)[-3:] == ["lost", "signalled", "signalled"], "SIGHUP and SIGCONT", 10)
    # It is the daemon's now.
    for name, last in (("STOP", "stopped"), ("CONT", "continued"), ("KILL", "ended")):
        moved.daemon.ctl("kill", moved.id, name).expect(0)
        until(moved.daemon, moved.id, last)
    expect(kinds(moved.daemon).count("lost") == 1, f"{kinds(moved.daemon)}")


def workers(daemon):
    """The one that stays; who asked something before may not have gone yet."""
    pids = harness.children_of(daemon.pid)
    return pids if len(pids) == 1 else None


def crashed(world):
    """The process that stayed with the child is killed."""
    moved = Moved(world).move()
    os.kill(wait_until(lambda: workers(moved.daemon), "one worker stays")[0], signal.SIGKILL)
    said = wait_until(lambda: [event for event in events(moved.daemon) if event["event"] == "lost"], "it is lost", 10)
    expect(len(said) == 1 and said[0]["reason"], f"{said}")


def behind(world):
    """Who reads too slowly is told how much is not kept any more, and then gets all the rest."""
    program = "import signal, time\nsignal.signal(signal.SIGRTMIN, signal.SIG_IGN)\nprint('ready', flush=True)\n" \
              "while True: time.sleep(1)"
    moved = Moved(world, program).move()
    daemon = moved.daemon
    staying = wait_until(lambda: workers(daemon), "one worker stays")
    slow = follower(world, daemon)
    seen = [json.loads(slow.line()) for _ in range(4)][-1]["sequence"]
    serving = [pid for pid in harness.children_of(daemon.pid) if pid not in staying]
    expect(len(serving) == 1, f"workers: {serving}")
    os.kill(serving[0], signal.SIGSTOP)
    many = 10_300

    def last():
        return int(world.run([world.program("rforkctl"), "--key", daemon.key, daemon.address, "events"],
                             host=daemon.host).out.splitlines()[-1].split(",")[0].split(":")[1])
    while (reached := last()) < many:
        for _ in range(min(many - reached + 10, 4000)):
            os.kill(moved.process.pid, signal.SIGRTMIN)
    os.kill(serving[0], signal.SIGCONT)
    told = 0
    while seen < many:
        event = json.loads(slow.line())
        if event["event"] == "missed":
            expect(event["host"] == "host-b" and event["missed"] > 0, f"{event}")
            told += event["missed"]
            seen += event["missed"]
        else:
            expect(event["sequence"] == seen + 1, f"{event} comes after {seen}")
            seen += 1
    expect(told > 0, "nothing was missed")


def forged(host, sequence, time_ns, **members):
    event = {"sequence": sequence, "time": "-", "time_ns": time_ns, "host": host, "event": "running", "child_id": "1",
             "move_id": "0" * 32, "name": "forged", "pid": 5, "origin": "elsewhere", "origin_pid": 6}
    return json.dumps({**event, **members})


def monitor(world):
    """Two daemons on two hosts tell two monitors; what doesn't come or isn't an event is said."""
    a, b = world.two_hosts()
    ctl = world.program("rforkctl")
    shown = world.start([ctl, "monitor", PORT], host=a, stderr=subprocess.STDOUT)
    raw = world.start([ctl, "--json", "monitor", f"{a.address}:{PORT + 1}"], host=a, stderr=subprocess.STDOUT)
    for program in shown, raw:
        expect("waiting for events" in program.line(), f"{program.early}")
    notify = ["--notify", f"{a.address}:{PORT}", "--notify", f"{a.address}:{PORT + 1}"]
    process = sleeper(world)
    daemons = [harness.Daemon(world, host, *notify, "--allow-root") if world.root else
               harness.Daemon(world, host, *notify) for host in (a, b)]
    for daemon in daemons:
        world.trace(process.pid, daemon.address, host=a, key=daemon.key).expect(0)
    for daemon in reversed(daemons):
        daemon.ctl("kill", "1", "TERM").expect(0)
        until(daemon, "1", "ended")
    kept = [event for daemon in daemons for event in events(daemon)]
    kept.sort(key=lambda event: event["time_ns"])
    expect(len(kept) == 12 and {event["host"] for event in kept} == {"host-a", "host-b"}, f"{kept}")
    said = [json.loads(raw.line()) for _ in kept]
    expect(said == kept, f"{said} isn't {kept}")
    for event in kept:
        line = shown.line()
        for text in (event["host"], event["event"], "python3", " 1 "):
            expect(text in line, f"{text} isn't in {line!r}, which is for {event}")
    expect("signal 15" in line, f"{line!r}")

    def send(*lines):
        world.run(["/usr/bin/python3", "-c", SENDER, a.address, str(PORT), *lines], host=a).expect(0)
    send(forged("host-x", 2, 3000), forged("host-x", 1, 2000), forged("host-x", 7, 4000, name="\x1b[31mred\x7f"),
         "garbage", "more garbage", "{}", forged("host-x", 8, 5000, name="\udcff".encode("utf-8", "replace").decode()))
    garbage = shown.line()
    expect("is no event" in garbage and a.address in garbage, f"{garbage!r}")
    lines = [shown.line() for _ in range(5)]
    expect(lines[0].split()[1] == lines[1].split()[1] and "forged" in lines[1], f"{lines}")
    expect("4 events" in lines[2] and "host-x" in lines[2], f"{lines}")
    expect("[31mred" in lines[3] and "\x1b" not in lines[3] and "\x7f" not in lines[3], f"{lines}")
    expect("garbage" not in shown.early and shown.early.count("is no event") == 1, f"{shown.early}")
    for program, number in ((shown, signal.SIGTERM), (raw, signal.SIGINT)):
        program.signal(number)
        program.wait(10).expect(0)


def usage(world):
    """What can't be listened on or notified."""
    ctl, daemon = world.program("rforkctl"), world.program("rforkd")
    for arguments in (["monitor", "0"], ["monitor", "70000"], ["monitor", "host"], ["monitor", "203.0.113.1:7412"],
                      ["127.0.0.1", "monitor", "7412"]):
        world.run([ctl, *arguments]).refused(harness.USAGE)
    for address in ("7412", "127.0.0.1", "127.0.0.1:0", "no such host:1"):
        world.run([daemon, "--listen", "127.0.0.1:0", "--notify", address]).refused(harness.USAGE)


BUSY = """
import threading, time
def spin():
    while True: pass
for _ in range(2): threading.Thread(target=spin, daemon=True).start()
data = bytearray(b"x" * (40 << 20))
print("ready", flush=True)
while True: time.sleep(0.01)
"""


def uses(world):
    """Processor time, memory and threads, while a child runs and at its end; in the table too."""
    process = world.start(["/usr/bin/python3", "-c", BUSY])
    expect(process.line() == "ready", "it isn't ready")
    daemon = harness.Daemon(world, None)
    for pid_mode in "new", "keep":
        world.trace(process.pid, "--pid", pid_mode, daemon.address, key=daemon.key).expect(0)
    process.kill()
    one, two = daemon.children()
    for entry in one, two:
        expect(entry["threads"] == 3, f"{entry}")
        expect(40 << 20 <= entry["resident_bytes"] < 400 << 20, f"{entry}")

    def grown():
        return all(new["cpu_ns"] >= old["cpu_ns"] + 50_000_000 for new, old in zip(daemon.children(), (one, two)))
    wait_until(grown, "their processor time grows", 10)
    table = daemon.ctl("ps").expect(0).out.splitlines()
    expect(max(map(len, table)) <= 120 and all(word in table[0] for word in ("CPU", "MEMORY", "THREADS")), f"{table}")
    expect(all(" MiB " in line and " 3 " in line for line in table[1:]), f"{table}")
    before = daemon.children()
    for entry in before:
        daemon.ctl("kill", entry["id"], "KILL").expect(0)
        daemon.ctl("wait", entry["id"])
    for old, new in zip(before, daemon.children()):
        expect(new["cpu_ns"] >= old["cpu_ns"] and new["max_resident_bytes"] >= 40 << 20, f"{new} after {old}")
        expect("threads" not in new, f"{new}")
    table = daemon.ctl("ps").expect(0).out.splitlines()
    expect(max(map(len, table)) <= 120 and all(" MiB " in line for line in table[1:]), f"{table}")


CASES = {"detached": detached, "exits": exits, "follow": follow, "ghosted": ghosted, "lost": lost, "crashed": crashed,
         "behind": behind, "monitor": monitor, "usage": usage, "uses": uses}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")
