"""Types of the frames between the parent and a worker process, and of requests.

parent -> worker
    FUNCTION  number = its id, payload = pickled function, flags = 1 if it is mutable
    FORGET    all functions so far
    COLUMNS   slot, flags = sequence, number = function id,
              payload = pickled list of argument tuples
    TASKS     slot, flags = sequence, number = n, payload = table and pickled tasks
    STATE     payload = pickled dict of what changed in the parent
    SEGMENT   number = slot, payload = where a segment is found
    BASE      number = its own, payload = bytes that later tasks refer to
    DROP      number = that of a base that is not needed any more
    SHARED    number = its id, payload = an object that tasks may share
    SETUP     payload = pickled (initializer, initargs), to be called now
    END       the call is over: payload = pickled lists of what is no more
worker -> parent
    READY     it runs; number = its process id
    SETUP_DONE, SETUP_FAILED   the initializer has returned, or payload = its exception
    NO_FORK   from the fork server: this worker cannot be forked
    NEWS      the result log has new records
    RESULT    slot, flags = kind, number = position, seconds, payload; large buffers
              may follow
    CHANGED   number = function id, flags = 1 if the module was loaded before,
              payload = name of a module that differs from the parent's
"""

FUNCTION = 1
FORGET = 2
COLUMNS = 3
TASKS = 4
STATE = 5
SEGMENT = 6
BASE = 7
SHARED = 8
END = 9
DROP = 10
SETUP = 11

READY = 16
NEWS = 17
RESULT = 18
CHANGED = 19
NO_FORK = 20
SETUP_DONE = 21
SETUP_FAILED = 22

# requests to the fork server, each one packet; see fork_server.py
FORK, PID, REAP = 1, 2, 3
