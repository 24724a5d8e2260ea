"""Count for as long as each line on stdin says, in seconds; print how far it came."""

import sys
import time


def count(duration_s):
    n = 0
    end = time.perf_counter() + duration_s
    while time.perf_counter() < end:
        n += 1
    return n


print("ready", flush=True)
for line in sys.stdin:
    print(count(float(line)), flush=True)
