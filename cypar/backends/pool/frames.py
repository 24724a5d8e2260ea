"""Types of the frames between the parent and a worker process.

parent -> worker
    FUNCTION  number = its id, payload = pickled function, flags = 1 if it is mutable
    FORGET    all functions so far
    COLUMNS   slot, flags = sequence, number = function id,
              payload = pickled list of argument tuples
    TASKS     slot, flags = sequence, number = n, payload = table and pickled tasks
    STATE     payload = pickled dict of what changed in the parent
worker -> parent
    READY     it runs
    NEWS      the result log has new records
    RESULT    slot, flags = kind, number = position, seconds, payload
    CHANGED   number = function id, flags = 1 if the module was loaded before,
              payload = name of a module that differs from the parent's
"""

FUNCTION = 1
FORGET = 2
COLUMNS = 3
TASKS = 4
STATE = 5

READY = 16
NEWS = 17
RESULT = 18
CHANGED = 19
