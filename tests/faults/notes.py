"""Notes that tasks leave in files, whatever process they run in and however it ends."""

import os
from collections import namedtuple

Note = namedtuple("Note", "what call index pid time")


def write_line(path, line):
    fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    try:
        os.write(fd, line.encode())
    finally:
        os.close(fd)


def read_notes(folder):
    """Return all notes, in the order in which they were written."""
    try:
        with open(os.path.join(folder, "notes"), encoding="ascii") as file:
            lines = file.read().split("\n")[:-1]
    except FileNotFoundError:
        return []
    notes = []
    for line in lines:
        what, call, index, pid, moment = line.split()
        notes.append(Note(what, int(call), int(index), int(pid), float(moment)))
    return notes
