"""Threads with a queue, locks and sleeps: threads.py FOLDER STEPS."""
import hashlib
import queue
import sys
import threading
import time

folder, steps = sys.argv[1], int(sys.argv[2])
jobs, results, lock = queue.Queue(maxsize=50), {}, threading.Lock()


def work():
    while True:
        job = jobs.get()
        if job is None:
            return
        digest = hashlib.sha256(str(job).encode() * 200).hexdigest()
        if job % 40 == 0:
            time.sleep(0.002)
        with lock:
            results[job] = digest


threads = [threading.Thread(target=work, name=f"worker {n}") for n in range(6)]
for thread in threads:
    thread.start()
for step in range(steps):
    jobs.put(step)
    if step % 500 == 0:
        print("step", step, flush=True)
for _ in threads:
    jobs.put(None)
for thread in threads:
    thread.join()
total = hashlib.sha256()
for step in range(steps):
    total.update(results[step].encode())
with open(folder + "/output", "w") as output:
    output.write(total.hexdigest() + "\n")
print("sum", total.hexdigest())
