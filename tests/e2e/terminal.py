#!/usr/bin/python3
"""A program in a terminal that is moved to another host, behind an interactive bash: terminal.py CASE root|user

The test holds the other end of the terminal, as a terminal emulator does: it types, and reads the screen.
"""

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import termios
import time

import harness
from harness import expect, wait_until

PROMPT = "bash-is-ready> "
PATIENCE = 8.0

# Lines: it says what it reads, and what it knows of its terminal when asked.
LINES = r'''
import fcntl, os, signal, struct, sys, termios
def size(): return "%d x %d" % struct.unpack("HHHH", fcntl.ioctl(0, termios.TIOCGWINSZ, bytes(8)))[:2]
signal.signal(signal.SIGWINCH, lambda *_: print("window is " + size() + "\n", end="", flush=True))
print("program", os.getpid(), flush=True)
while True:
    try:
        line = sys.stdin.readline()
    except KeyboardInterrupt:
        print("interrupted", flush=True)
        continue
    word = line.strip()
    if not line: print("end of file", flush=True); sys.exit(3)
    if word == "tty": print("tty", [os.isatty(fd) for fd in (0, 1, 2)], flush=True)
    elif word == "size": print("size is", size(), flush=True)
    elif word == "host": print("host is", os.uname().nodename, flush=True)
    elif word.startswith("exit"): sys.exit(int(word[4:]))
    else: print("read", repr(word), flush=True)
'''

# Single keys, without echo: from the beginning, or when it has read a line.
KEYS = r'''
import os, sys, termios, tty
before = termios.tcgetattr(0)
if sys.argv[1] == "now": tty.setraw(0)
os.write(1, b"program %d " % os.getpid())    # no line: what ends one differs
if sys.argv[1] == "later":
    print("first", repr(sys.stdin.readline()), flush=True)
    tty.setraw(0)
    print("raw\r", flush=True)
while True:
    keys = os.read(0, 100)
    os.write(1, b"keys " + repr(keys).encode() + b"\r\n")
    if b"q" in keys: break
termios.tcsetattr(0, termios.TCSADRAIN, before)
print("cooked again", flush=True)
line = sys.stdin.readline()
print("line", repr(line), flush=True)
'''


# In the background at first: it reads nothing until it is told to.
LATER = r'''
import os, sys, time
print("program", os.getpid(), flush=True)
while not os.path.exists("go"): time.sleep(0.01)
for line in sys.stdin: print("later", repr(line), flush=True)
'''

# As pagers and editors do: keys come from a descriptor of the terminal that it has opened itself.
AGAIN = r'''
import os, termios
named = os.open(os.ttyname(0), os.O_RDWR)
controlling = os.open("/dev/tty", os.O_RDONLY)
print("program", os.getpid(), flush=True)
def modes(): return [termios.tcgetattr(fd) for fd in (0, 1, named, controlling)]
for fd in (controlling, named, 0, controlling):
    line = os.read(fd, 100)
    os.write(named, b"%d read %r\n" % (fd, line))
changed = termios.tcgetattr(named)
changed[3] &= ~termios.ECHO
termios.tcsetattr(named, termios.TCSANOW, changed)
print("one terminal", all(one == changed for one in modes()), os.fstat(named).st_rdev == os.fstat(0).st_rdev, flush=True)
'''


class Screen:
    """bash on a terminal of its own on the first of two hosts; a program in it can be moved to the second."""

    def __init__(self, world):
        self.world = world
        self.here, self.there = world.two_hosts()
        self.daemon = harness.Daemon(world, self.there)
        (world.folder / "lines.py").write_text(LINES)
        (world.folder / "later.py").write_text(LATER)
        (world.folder / "keys.py").write_text(KEYS)
        (world.folder / "again.py").write_text(AGAIN)
        self.master, slave = pty.openpty()
        self.resize(24, 80)
        if world.drop:
            os.fchown(slave, harness.ORDINARY, -1)
        environment = {"PATH": os.environ["PATH"], "TERM": "dumb", "PS1": PROMPT, "HOME": str(world.folder)}
        argv = [*self.here.enter, *world.drop, "bash", "--norc", "--noprofile", "--noediting", "-i"]
        self.bash = subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, cwd=world.folder, env=environment,
                                     start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.text = ""       # that was not asked for yet
        self.everything = ""
        self.expect(re.escape(PROMPT))

    def resize(self, rows, columns):
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    def type(self, text):
        os.write(self.master, text.encode())

    def expect(self, pattern, seconds=PATIENCE):
        """Waits until it is on the screen; takes it and what is before."""
        end = time.monotonic() + seconds
        while not (found := re.search(pattern, self.text)):
            left = end - time.monotonic()
            expect(left > 0, f"{pattern!r} isn't on the screen:\n{self.everything}\n--- of which new: {self.text!r}")
            if select.select([self.master], [], [], left)[0]:
                piece = os.read(self.master, 4096).decode(errors="replace")
                self.text += piece
                self.everything += piece
        self.text = self.text[found.end():]
        return found

    def start(self, *arguments):
        """Starts a program in the foreground."""
        self.type(" ".join(["/usr/bin/python3", "-u", *arguments]) + "\n")
        self.pid = int(self.expect(r"program (\d+)\s+")[1])

    def run(self, *arguments):
        """Starts a program in the foreground and moves it."""
        self.start(*arguments)
        self.world.trace("--move", self.pid, self.daemon.address, host=self.here, key=self.daemon.key).expect(0)

    def status(self, expected):
        """bash's prompt comes, and $? is this."""
        self.expect(re.escape(PROMPT))
        self.type("echo status $?\n")
        found = self.expect(r"status (\d+)\r\n")
        expect(int(found[1]) == expected, f"status {found[1]}, not {expected}:\n{self.everything}")
        self.expect(re.escape(PROMPT))

    def modes(self):
        return termios.tcgetattr(self.master)

    def finish(self):
        """bash ends, and the terminal is as it was."""
        wait_until(lambda: not self.daemon.living(), "the child has ended")
        self.type("exit 0\n")
        wait_until(lambda: self.bash.poll() is not None, "bash ends")
        expect(self.bash.returncode == 0, f"bash: {self.bash.returncode}")


def lines(world):
    """Keys get there, its output comes back; it has a terminal, with the right size; it ends by itself."""
    screen = Screen(world)
    before = screen.modes()
    screen.run("lines.py")
    screen.type("host\n")
    screen.expect(r"^host\r\nhost is host-b\r\n")    # echoed once
    screen.type("tty\n")
    screen.expect(r"^tty\r\ntty \[True, True, True\]\r\n")
    screen.type("size\n")
    screen.expect(r"size is 24 x 80\r\n")
    screen.type("wrong\x7f\x7f\x7f\x7f\x7fright\n")    # rubbed out
    screen.expect(r"read 'right'\r\n")
    screen.type("many words in one line\nand another\n")
    screen.expect(r"read 'many words in one line'\r\n")
    screen.expect(r"read 'and another'\r\n")
    screen.type("exit 7\n")
    screen.status(7)
    expect(screen.modes() == before, f"modes: {screen.modes()}, not {before}")
    screen.run("lines.py")
    screen.type("\x04")
    screen.expect("end of file")
    screen.status(3)
    screen.finish()


def window(world):
    """A change of the window's size arrives as SIGWINCH and as the size."""
    screen = Screen(world)
    screen.run("lines.py")
    for rows, columns in ((30, 100), (10, 40), (50, 132)):
        screen.resize(rows, columns)
        screen.type("\n")    # a signal just before Python's read(2) is noticed after it only
        screen.expect(rf"window is {rows} x {columns}\r\n")
    screen.type("size\n")
    screen.expect(r"size is 50 x 132\r\n")
    screen.type("exit 0\n")
    screen.status(0)
    screen.finish()


def job_control(world):
    """Ctrl-Z stops it, fg and bg let it go on, Ctrl-C interrupts it, jobs and kill know it."""
    screen = Screen(world)
    before = screen.modes()
    screen.run("lines.py")
    for _ in range(2):
        screen.type("\x1a")
        screen.expect(r"\[1\]\+  Stopped +")
        screen.status(128 + signal.SIGTSTP)
        expect(screen.modes() == before, f"modes while it is stopped: {screen.modes()}, not {before}")
        screen.type("fg\n")
        screen.expect(r"/usr/bin/python3 -u lines.py\r\n")
        screen.type("again\n")
        screen.expect(r"read 'again'\r\n")
    screen.type("\x03")
    screen.expect(r"\^C")
    screen.type("\n")    # a signal just before Python's read(2) is noticed after it only
    screen.expect(r"interrupted\r\n")
    screen.type("after\n")
    screen.expect(r"read 'after'\r\n")
    screen.type("\x1a")
    screen.expect(r"Stopped +")
    screen.status(128 + signal.SIGTSTP)
    screen.type("kill %1; fg\n")
    screen.expect(r"Terminated")
    screen.status(128 + signal.SIGTERM)
    # One that leaves SIGINT to its default action dies of it; Python's own is an exception, and the same end.
    for first, says in (("signal.signal(2,signal.SIG_DFL)", r"\r\n"), ("0", r"KeyboardInterrupt\r\n")):
        screen.run("-c", f"'import os,signal;{first};print(\"program\",os.getpid());signal.pause()'")
        screen.type("\x03")
        screen.expect(says)
        screen.status(128 + signal.SIGINT)
    expect(screen.modes() == before, f"modes at the end: {screen.modes()}, not {before}")
    screen.finish()


def raw(world):
    """A program that wants single keys gets them, Ctrl-C and Ctrl-Z too; and lines again afterwards."""
    def keys():
        for typed, seen in (("a", "b'a'"), ("\x03", r"b'\\x03'"), ("\x1a", r"b'\\x1a'"), ("\r", r"b'\\r'"),
                            ("\x1b[A", r"b'\\x1b\[A'")):
            screen.type(typed)
            screen.expect(rf"^keys {seen}\r\n")    # and no echo
        screen.type("q")
        screen.expect(r"cooked again\r\n")
        screen.type("a line\n")
        screen.expect(r"^a line\r\nline 'a line\\n'\r\n")

    screen = Screen(world)
    before = screen.modes()
    screen.run("keys.py", "later")
    screen.type("line\n")
    screen.expect(r"^line\r\nfirst 'line\\n'\r\nraw\r\n")
    keys()
    screen.status(0)
    expect(screen.modes() == before, f"modes: {screen.modes()}, not {before}")
    # The mode that it has when it moves comes along.
    screen.run("keys.py", "now")
    keys()
    screen.status(0)
    # It was raw when it moved, and has made lines of it there: so it is here.
    expect(screen.modes() == before, f"modes: {screen.modes()}, not {before}")
    screen.finish()


def background(world):
    """A job that runs in the background when it is moved leaves the terminal to the shell, until it is fetched by fg."""
    screen = Screen(world)
    before = screen.modes()
    screen.run("later.py", "&")
    screen.type("echo still $((6 * 7))\n")
    screen.expect(r"still 42\r\n")
    expect(screen.modes() == before, "the modes have changed")
    screen.type("fg\n")
    screen.expect(r"later.py\r\n")
    world.go()
    screen.type("hello\n")
    screen.expect(r"later 'hello\\n'\r\n")
    screen.type("\x1a")
    screen.expect("Stopped")
    screen.type("bg; echo $?\n")
    screen.expect(r"\r\n0\r\n")
    screen.type("fg\n")
    screen.expect(r"later.py\r\n")
    screen.type("again\n")
    screen.expect(r"later 'again\\n'\r\n")
    screen.type("\x04")
    screen.status(0)
    expect(screen.modes() == before, f"modes: {screen.modes()}, not {before}")
    screen.finish()


def one_terminal(screen):
    """again.py reads what is typed, whichever of its descriptors it reads."""
    for line in ("one", "two", "three", "four"):
        screen.type(line + "\n")
        screen.expect(rf"\d read b'{line}\\n'\r\n")
    screen.expect(r"one terminal True True\r\n")
    screen.status(0)


def again(world):
    """A program that has opened its terminal again, by name and as /dev/tty, has one terminal there too."""
    screen = Screen(world)
    screen.run("again.py")
    one_terminal(screen)
    screen.finish()


def foreground(world):
    """So has a copy in the foreground of rfork-run."""
    screen = Screen(world)
    screen.start("again.py")
    world.trace(screen.pid, "-o", world.folder / "again.rfork", host=screen.here).expect(0)
    screen.type("\x03")
    screen.status(128 + signal.SIGINT)
    screen.type(f"{world.program('rfork-run')} again.rfork\n")
    one_terminal(screen)
    screen.finish()


# Its pid is told where a pipe doesn't lead away from.
TICKS = "import os, signal, time\nsignal.signal(signal.SIGINT, signal.SIG_DFL)\nos.write(2, b'program %d ' % os.getpid())\nwhile True: time.sleep(0.01)"


class Group(Screen):
    """With a moved program that is one of several in the foreground."""

    def run(self, line):
        """Starts and moves it: {} of the line."""
        (self.world.folder / "ticks.py").write_text(TICKS)
        self.type(line.format("/usr/bin/python3 ticks.py") + "\n")
        self.pid = int(self.expect(r"program (\d+) ")[1])
        self.world.trace("--move", self.pid, self.daemon.address, host=self.here, key=self.daemon.key).expect(0)


def group(world):
    """Ctrl-C, Ctrl-\\ and Ctrl-Z reach everybody in the foreground, whichever of them was moved."""
    screen = Group(world)
    before = screen.modes()
    for line in ("{} | sleep 99", "sleep 99 | {}", "sleep 99 | {} | sleep 99"):
        screen.run(line)
        screen.type("\x03")
        screen.expect(r"\^C\r\n")
        screen.status(128 + signal.SIGINT)
    screen.run("sleep 99 | {} | sleep 99")
    screen.type("\x1a")
    screen.expect(r"\^Z\r\n\[1\]\+  Stopped")
    screen.expect(re.escape(PROMPT))
    screen.type("jobs -l; echo listed\n")
    screen.expect(r"Stopped[^|]*\| [^|]*ticks.py[^|]*\| [^|]*listed\r\n")
    screen.expect(re.escape(PROMPT))
    screen.type("fg\n")
    screen.expect(r"sleep 99\r\n")
    wait_until(lambda: not screen.daemon.children()[-1]["stopped"], "it goes on")
    time.sleep(0.5)    # the terminal is the ghost's again
    screen.type("\x1c")
    screen.expect(r"\^\\Quit")
    screen.status(128 + signal.SIGQUIT)
    # A shell that waits for it ends as well.
    screen.run("bash -c '{}; echo wrongly after'")
    screen.type("\x03")
    screen.expect(r"\^C\r\n")
    screen.status(128 + signal.SIGINT)
    expect("\nwrongly" not in screen.everything, f"{screen.everything}")
    expect(screen.modes() == before, f"modes: {screen.modes()}, not {before}")
    screen.finish()


def input_of_child(world):
    """A child of rfork() that has standard input too: keys act, whether or not it reads, and however."""
    screen = Screen(world)
    before = screen.modes()
    environment = f"RFORK_TRACE={world.program('rfork-trace')} RFORK_KEY={screen.daemon.key}"

    def start(does, says=""):
        screen.type(f"{environment} {world.build / 'targets/caller'} {screen.daemon.address} input=1 child={does}\n")
        found = screen.expect(rf"child (\d+)\r?\n[^$]*{says}|{says}[^$]*child (\d+)\r?\n")
        return found[1] or found[2]

    start("pause")
    screen.type("\x03")
    screen.status(128 + signal.SIGINT)
    start("pause")
    screen.type("\x1a")
    screen.expect(r"\[1\]\+  Stopped")
    screen.expect(re.escape(PROMPT))
    wait_until(lambda: screen.daemon.children()[-1]["stopped"], "the child stops")
    screen.type("fg\n")
    wait_until(lambda: not screen.daemon.children()[-1]["stopped"], "the child goes on")
    time.sleep(0.5)    # the terminal is the ghost's again
    screen.type("\x03")
    screen.status(128 + signal.SIGINT)
    start("ask", says="question")
    screen.type("43\n")
    screen.expect(r"ended exit:43 ")
    screen.status(0)
    # Keys that don't signal there don't here.
    start("keys", says="single")
    for key in "\x03", "\x1a", "q":
        screen.type(key)
        screen.expect(rf"key {ord(key)}\r\n")
    screen.expect(r"cooked\r\n")
    time.sleep(0.2)
    screen.type("\x03")
    screen.status(128 + signal.SIGINT)
    # When its parent is gone the terminal is the shell's.
    ghost = start("pause")
    subprocess.run([*screen.here.enter, "sh", "-c", f"kill -KILL $(ps -o ppid= -p {ghost})"], check=True)
    screen.status(128 + signal.SIGKILL)
    screen.type(f"kill -TERM {ghost}; echo sent\n")
    screen.expect(r"\nsent\r\n")
    expect(screen.modes() == before, f"modes: {screen.modes()}, not {before}")
    screen.finish()


CASES = {"again": again, "background": background, "foreground": foreground, "group": group, "input": input_of_child, "lines": lines, "window": window, "job-control": job_control, "raw": raw}

if __name__ == "__main__":
    harness.main(CASES[sys.argv[1]], user=sys.argv[2] == "user")
