"""Print how long Ctrl-C takes to end a long native loop: the slowest of ten times.

``interrupt.py FOLDER_OF_THE_LOOPS``
"""

import json
import signal
import sys
import threading
import time

sys.path.insert(0, sys.argv[1])
import loops

signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may ignore it
sent = []


def send():
    sent.append(time.perf_counter())
    signal.raise_signal(signal.SIGINT)


took = []
for _ in range(10):
    timer = threading.Timer(0.1, send)
    timer.start()
    try:
        loops.run_long(10**7)
    except KeyboardInterrupt:
        took.append(time.perf_counter() - sent[-1])
    timer.join()
print(json.dumps({"value": 1e3 * max(took), "first_ms": 1e3 * took[0]}))
assert len(took) == 10
