"""Four threads that each make five calls, with n_jobs 2, 3, 2 and 4.

``many_callers.py LIBRARY PREFER`` prints the seconds until all have ended.
"""

import importlib
import json
import sys
import threading
import time
from operator import neg

CALLS = 5
TASKS = 200


def main(library, prefer):
    library = importlib.import_module(library)
    wrong = []

    def caller(n_jobs):
        for _ in range(CALLS):
            tasks = (library.delayed(neg)(i) for i in range(TASKS))
            results = library.Parallel(n_jobs=n_jobs, prefer=prefer)(tasks)
            if results != [-i for i in range(TASKS)]:
                wrong.append(results)

    threads = [threading.Thread(target=caller, args=(n,)) for n in (2, 3, 2, 4)]
    start = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds = time.perf_counter() - start
    if wrong:
        raise RuntimeError(f"{len(wrong)} calls returned something else")
    print(json.dumps({"value": seconds}))


main(sys.argv[1], sys.argv[2])
