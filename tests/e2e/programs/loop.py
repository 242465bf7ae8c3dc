"""A loop with dicts and a generator that sleeps now and then and writes an open file: loop.py FOLDER STEPS."""
import sys
import time


def numbers():
    a, b = 1, 1
    while True:
        yield a
        a, b = b, (a + b) % 1_000_000_007


folder, steps = sys.argv[1], int(sys.argv[2])
table = {}
source = numbers()
with open(folder + "/output", "w") as output:
    for step in range(steps):
        number = next(source)
        table.setdefault(f"key {number % 997}", []).append(number)
        output.write(f"{step} {number} {len(table)}\n")
        if step % 500 == 0:
            output.flush()
            time.sleep(0.003)
        if step % 5000 == 0:
            print("step", step, flush=True)
print("sum", sum(sum(numbers) for numbers in table.values()) % 1_000_003, len(table))
