#!/usr/bin/python3
"""The destination is a root folder that holds rfork's programs, the libraries they need, and nothing else: python3,
which isn't there, goes on there. bare_root.py net|file root|user
"""

import shutil
import signal
import subprocess
import sys

import harness
from harness import expect

SCRIPT = """
import hashlib, sys, time
steps = 4000
total = hashlib.sha256()
table = {}
for step in range(steps):
    total.update(str(step).encode() * 50)
    table[step % 97] = total.hexdigest()
    if step % 20 == 0:
        time.sleep(0.01)
    if step == 500:
        print("middle", flush=True)
print("sum", total.hexdigest(), len(table), flush=True)
"""


def furnish(world, root, host):
    """rfork's programs and their libraries at the paths where their loader looks, /proc, /dev, /tmp."""
    for name in ("bin", "proc", "dev", "tmp"):
        (root / name).mkdir(parents=True)
    for name in ("rforkd", "rfork-run"):
        program = root / "bin" / name
        shutil.copy(world.program(name), program)
        listed = subprocess.run(["ldd", str(program)], capture_output=True, text=True, check=True).stdout
        for word in listed.split():
            if word.startswith("/"):
                place = root / word[1:]
                place.parent.mkdir(parents=True, exist_ok=True)
                if not place.exists():
                    shutil.copy(word, place)
    (root / "tmp").chmod(0o1777)
    for device in ("null", "zero", "full", "random", "urandom"):
        (root / "dev" / device).touch()
        host.call("mount", "--bind", f"/dev/{device}", str(root / "dev" / device))
    host.call("mount", "-t", "proc", "proc", str(root / "proc"))


def goes_on(world, way):
    if not (harness.os.geteuid() == 0):
        raise harness.Skip("a root folder is furnished as root only")
    here, there = world.two_hosts()
    root = world.folder / "root"
    root.mkdir()
    furnish(world, root, there)
    world.folder.chmod(0o755)
    user = [f"--userspec={harness.ORDINARY}:{harness.ORDINARY}"] if world.user else []
    plain = subprocess.run(["/usr/bin/python3", "-c", SCRIPT], capture_output=True, text=True, check=True)
    process = world.start(["/usr/bin/python3", "-c", SCRIPT], host=here, cwd="/")
    expect(process.line() == "middle", f"it ended early: {process.early}")
    made_key = world.key()
    drop, world.drop = world.drop, []  # chroot is called as root and becomes the user
    if way == "net":
        key = root / "tmp/key"
        shutil.copy(made_key, key)
        shutil.chown(key, *([harness.ORDINARY] * 2 if world.user else [0, 0]))
        daemon = bare_daemon(world, there, root, user)
        world.drop = drop
        world.trace("--move", "--no-ghost", process.pid, daemon.address, host=here, key=daemon.key).expect(0)
        child = daemon.finished(daemon.child_id())
    else:
        world.drop = drop
        image = world.folder / "image.rfork"
        world.trace("--move", process.pid, "-o", image, host=here).expect(0)
        world.drop = []
        shutil.copy(image, root / "tmp/image")
        shutil.chown(root / "tmp/image", *([harness.ORDINARY] * 2 if world.user else [0, 0]))
        child = world.run(["chroot", *user, root, "/bin/rfork-run", "/tmp/image"], host=there)
    original = process.wait()
    expect(original.code == -signal.SIGKILL, f"the original should have been ended: {original}")
    child.expect(0)
    expect("sum " in child.out and plain.stdout.endswith(child.out), f"other output than {plain.stdout!r}: {child}")


def bare_daemon(world, host, root, user):
    """A Daemon whose paths are inside of the root."""
    tmp = root / "tmp"
    daemon = harness.Daemon.__new__(harness.Daemon)
    daemon.world, daemon.host, daemon.key = world, host, world.key()
    allow = [] if user else ["--allow-root"]
    log = world.folder / "rforkd-bare.log"
    daemon.process = world.start(
        ["chroot", *user, root, "/bin/rforkd", "--listen", f"{host.address}:0", "--key", "/tmp/key",
         "--state", "/tmp/state", "--port-file", "/tmp/port", *allow], host=host, log=log)

    def listening():
        expect(daemon.process.running(), f"rforkd ended: {log.read_text()}")
        return (tmp / "port").exists() and (tmp / "port").read_text().strip()

    daemon.address = f"{host.address}:{harness.wait_until(listening, 'rforkd listens')}"
    return daemon


if __name__ == "__main__":
    harness.main(goes_on, sys.argv[1], user=sys.argv[2] == "user")
