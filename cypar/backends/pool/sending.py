"""Send batches to workers, and first whatever a worker must know to run them.

Thread safety: the thread of the call.
"""

from __future__ import annotations

import select
from _pickle import dumps as plain_dumps  # `pickle` costs 5 ms to import

from cypar.backends.pool import frames
from cypar.backends.pool.state import difference
from cypar.core._batch import Batch
from cypar.core._status_page import MAX_SEQUENCE
from cypar.transport._capture import columns_of, table_of

MAX_FUNCTIONS = 256  # functions a worker keeps


class Sender:
    """Sends for one dispatcher.

    Parameters
    ----------
    dispatcher : Dispatcher
    functions : FunctionTable
    """

    def __init__(self, dispatcher, functions):
        self.dispatcher = dispatcher
        self.call_state = dispatcher.call_state
        self.functions = functions
        self.replacements = {}  # blob by name -> reference by value

    def send(self, worker, tasks, state):
        """Send one batch; the worker is known to have a free slot."""
        slot = 0 if worker.batches[0] is None else 1
        sequence = (worker.sequences[slot] + 1) & MAX_SEQUENCE
        worker.sequences[slot] = sequence
        worker.batches[slot] = Batch(tasks)
        worker.n_tasks += len(tasks)
        worker.is_spent = self.dispatcher.life.is_used_up(worker)
        channel = worker.channel
        sizes = self.dispatcher.sizes
        try:
            if len(worker.functions) >= MAX_FUNCTIONS:
                channel.send(frames.FORGET)
                worker.functions.clear()
            self.prepare(worker, state)
            columns = columns_of(tasks)
            if columns is not None:
                payload = plain_dumps(columns, 5)
                sizes.note_tasks(len(payload), len(tasks))
                number = self.function_id(worker, tasks[0][1][0])
                worker.page.publish(slot, sequence, len(tasks))
                channel.send(frames.COLUMNS, slot, sequence, number, 0.0, payload)
            else:
                parts = table_of(
                    tasks, lambda ref: self.function_id(worker, ref), worker.outbox
                )
                sizes.note_tasks(sum(map(len, parts)), len(tasks))
                worker.page.publish(slot, sequence, len(tasks))
                channel.send(frames.TASKS, slot, sequence, len(tasks), 0.0, *parts)
                worker.outbox.finish_message()
        except BrokenPipeError:
            worker.page.publish(slot, sequence, 0)
            self.dispatcher.lost(worker)
            return
        worker.page.ring()
        if channel.outgoing_bytes:
            self.dispatcher.poll.modify(channel.fd, select.POLLIN | select.POLLOUT)

    def prepare(self, worker, state):
        """Let a worker follow our state, and set a new one up."""
        if (
            worker.known is not state
            or worker.known_call != self.call_state
            or worker.known_index != worker.index
        ):
            self.send_state(worker, state)
        if worker.needs_setup:
            worker.needs_setup = False
            worker.channel.send(frames.SETUP, 0, 0, 0, 0.0, worker.setup)

    def send_state(self, worker, state):
        changes = difference(worker.known, state)
        if worker.known_call != self.call_state:
            level, threads, variables = self.call_state
            changes["level"] = level
            changes["threads"] = (threads, variables)
        if worker.known_index != worker.index:
            changes["index"] = worker.known_index = worker.index
        worker.channel.send(frames.STATE, 0, 0, 0, 0.0, plain_dumps(changes, 5))
        worker.known = state
        worker.known_call = self.call_state

    def function_id(self, worker, reference):
        """Return the worker's id of a function; sends the function if it is new."""
        blob = reference.blob
        if self.replacements and blob in self.replacements:
            reference = self.replacements[blob]
            blob = reference.blob
        number = worker.functions.get(blob)
        if number is None:
            worker.last_function += 1
            number = worker.functions[blob] = worker.last_function
            worker.channel.send(
                frames.FUNCTION, 0, int(reference.mutable), number, 0.0, blob
            )
        return number

    def send_by_value(self, reference, module):
        """Send a function by value: the file of its module is not what was loaded."""
        self.functions.distrust(module)
        function = reference.source and reference.source()
        if function is None:
            raise RuntimeError(
                f"the file of module {module!r} was edited after it was imported here, "
                f"and {reference.name} needs it: reload the module, or start again"
            )
        self.replacements[reference.blob] = self.functions.encode(function)
