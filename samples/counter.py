#!/usr/bin/python3
"""counter.py [SECONDS]: counts, for `rfork-trace --move PID HOST` to take away; nothing of it knows of rfork."""
import os
import sys
import time

end = time.monotonic() + float(sys.argv[1] if len(sys.argv) > 1 else 3600)
count = 0
while time.monotonic() < end:
    print(f"{os.uname().nodename}: {count}", flush=True)
    count += 1
    time.sleep(0.2)
