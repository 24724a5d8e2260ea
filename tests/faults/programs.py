"""Random programs, the same ones for the same seed.

Program ``number`` belongs to one *cell*, a valid combination of fault, backend and
return_as; each round of ``len(CELLS)`` numbers has every cell once. All else is drawn.
"""

import dataclasses
import inspect
from random import Random

from cypar import Parallel

BACKENDS = ("sequential", "threading", "processes", "multiprocessing")
RETURN_AS = ("list", "generator", "generator_unordered")
# What goes wrong -> the ways in which it does; see `faults` and `runner`.
FAULTS = {
    "none": ("nothing",),
    "exception": (
        "raise_injected",
        "raise_unpicklable",
        "raise_exit",
        "raise_interrupt",
        "raise_chained",
        "input raises",
        "argument cannot be pickled",
        "argument cannot be loaded",
        "return_unpicklable",
    ),
    "kill": ("kill", "segfault", "abort"),
    "exit": ("leave", "leave_well"),
    "killer": ("any task", "any worker"),
    "timeout": ("sleep_long", "spin_long", "hold_gil"),
    "interrupt": ("start", "any task"),
    "end": ("SIGKILL", "SIGTERM", "os._exit", "exit", "sys.exit"),
    "disk": ("full folder", "size limit"),
    "descriptors": ("some", "few", "none"),
    "child": (
        "child_then_value",
        "child_then_error",
        "child_then_kill",
        "child_then_leave",
        "child_then_sleep",
    ),
    "fork": ("exit", "call", "generator"),
}
NEEDS_PICKLES = (
    "argument cannot be pickled",
    "argument cannot be loaded",
    "return_unpicklable",
)

_PROGRAM = "its tasks run in the program itself, which would end"
_NO_FILES = "it makes no files and no shared memory"
_NO_DESCRIPTORS = "it opens no descriptors"
_OWN_CHILD = "a task's subprocess is a child of the program, which has to end it"
_SERIAL = "it is the serial run that the others are compared with"
IMPOSSIBLE = {
    ("none", "sequential"): _SERIAL,
    ("kill", "sequential"): _PROGRAM,
    ("kill", "threading"): _PROGRAM,
    ("exit", "sequential"): _PROGRAM,
    ("exit", "threading"): _PROGRAM,
    ("killer", "sequential"): "it has no other processes",
    ("killer", "threading"): "it has no other processes",
    ("timeout", "sequential"): "timeout= has no meaning in a loop of the caller",
    ("end", "sequential"): "nothing else exists that could remain",
    ("disk", "sequential"): _NO_FILES,
    ("disk", "threading"): _NO_FILES,
    ("descriptors", "sequential"): _NO_DESCRIPTORS,
    ("descriptors", "threading"): _NO_DESCRIPTORS,
    ("child", "sequential"): _OWN_CHILD,
    ("child", "threading"): _OWN_CHILD,
    ("fork", "sequential"): "it has no state that a forked child could inherit",
}
CELLS = tuple(
    (fault, backend, return_as)
    for fault in FAULTS
    for backend in BACKENDS
    for return_as in RETURN_AS
    if (fault, backend) not in IMPOSSIBLE
)

# Bytes of a payload, and how many tasks there may be at most with such payloads.
SIZES = {
    0: 300,
    1: 1200,
    100: 600,
    5_000: 200,
    70_000: 80,
    300_000: 50,
    1_100_000: 16,
    3_000_000: 8,
    6_000_000: 16,
}
FAULTY_TIMEOUT_S = 1.0  # far more than a healthy task takes

# While it does not exist, programs are drawn without it.
HAS_MAX_TASKS = (
    "max_tasks_per_worker" in inspect.signature(Parallel.__init__).parameters
)


@dataclasses.dataclass(frozen=True)
class Program:
    """One random program.

    Attributes
    ----------
    number : int
    seed : int
    fault, variant : str
        See `FAULTS`.
    backend, return_as, n_jobs, batch_size, pre_dispatch, mmap_mode, max_nbytes,
    timeout, on_error, retries
        Arguments of `Parallel`; ``temp_folder``: whether one is given; ``max_tasks`` is
        ``max_tasks_per_worker``.
    n_calls : int
        The fault happens in call number ``faulty_call``.
    block : bool
        The calls are made in a with-block.
    n_tasks : int
    payload : str
        What tasks get: 'index', 'bytes', 'array', 'view', 'same', 'refilled',
        'touched', 'dict' or 'object'; of about ``size`` bytes.
    result : str
        What they return, see `tasks.value_of`.
    function : str
        How the task's function is made: 'module', 'closure', 'partial' or 'method'.
    work_us : int
        How long a task waits.
    nested : str or None
        Backend of a Parallel inside of each task.
    writes, keeps : bool
        Tasks write to their payload; they keep it.
    reading : str
        How a generator is read: 'all', 'slowly', 'half' (then closed), 'dropped'.
    beside : bool
        Another thread makes calls of its own at the same time.
    faulty : tuple of int
        Tasks in which the fault happens.
    late : bool
        It happens at the end of these tasks.
    attempts : int
        It happens in that many runs of the task, 0 for all.
    after, delay_s
        For faults from outside: they happen that long after so many tasks started.
    """

    number: int
    seed: int
    fault: str
    variant: str
    backend: str
    return_as: str
    n_jobs: int
    batch_size: object
    pre_dispatch: object
    mmap_mode: object
    max_nbytes: object
    temp_folder: bool
    timeout: object
    on_error: str
    retries: int
    max_tasks: object
    n_calls: int
    faulty_call: int
    block: bool
    n_tasks: int
    payload: str
    size: int
    result: str
    function: str
    work_us: int
    nested: object
    writes: bool
    keeps: bool
    reading: str
    beside: bool
    faulty: tuple
    late: bool
    attempts: int
    after: int
    delay_s: float

    @property
    def cell(self):
        return self.fault, self.backend, self.return_as

    @property
    def pickles(self):
        """Whether tasks run in other processes."""
        return self.backend in ("processes", "multiprocessing")

    @property
    def ends(self):
        """Whether the program's process itself ends: it needs one of its own."""
        return self.fault == "end"

    def __str__(self):
        parts = [f"{self.fault} ({self.variant})"]
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name not in ("fault", "variant", "seed", "number"):
                parts.append(f"{field.name}={value!r}")
        return " ".join(parts)


def make_program(seed, number):
    """Return program ``number`` of a seed."""
    number_of_round, place = divmod(number, len(CELLS))
    cells = list(CELLS)
    Random(f"{seed} round {number_of_round}").shuffle(cells)
    fault, backend, return_as = cells[place]
    random = Random(f"{seed} program {number}")
    draw = _Draw(random, fault, backend, return_as)
    return Program(
        number=number,
        seed=seed,
        fault=fault,
        backend=backend,
        return_as=return_as,
        **draw.fields(),
    )


class _Draw:
    """Draws what a cell leaves open."""

    def __init__(self, random, fault, backend, return_as):
        self.random = random
        self.fault = fault
        self.backend = backend
        self.return_as = return_as
        self.pickles = backend in ("processes", "multiprocessing")
        self.is_parallel = backend != "sequential"

    def chance(self, share):
        return self.random.random() < share

    def fields(self):
        """Return the values of all other fields of a `Program`."""
        found = {"variant": self.variant()}
        for part in (self.options, self.calls, self.tasks, self.errors, self.moment):
            found.update(part(found))
        return found

    def variant(self):
        variants = FAULTS[self.fault]
        if not self.pickles:
            variants = [v for v in variants if v not in NEEDS_PICKLES]
        if self.fault == "timeout" and self.backend == "threading":
            return "wait_for_release"  # nothing else can be stopped
        if self.fault == "killer" and self.backend == "multiprocessing":
            return "any task"
        if self.fault == "fork" and self.return_as == "list":
            variants = ("exit", "call")
        return self.random.choice(variants)

    def options(self, found):
        choose = self.random.choice
        return {
            # with 1 tasks run in the program itself, as on the backend 'sequential'
            "n_jobs": choose((2, 2, 2, 3, 4) if self.is_parallel else (1, 2, 4)),
            "batch_size": choose(("auto", "auto", 1, 2, 7, 50)),
            "pre_dispatch": choose(
                ("2 * n_jobs", "2 * n_jobs", "all", 1, "1.5 * n_jobs")
            ),
            "mmap_mode": choose(("r", "r", "c", "r+", "w+", None)),
            "max_nbytes": choose(("1M", 1000, 100_000, None)),
            "temp_folder": self.fault == "disk" or self.chance(0.15),
            "max_tasks": self.max_tasks(),
        }

    def max_tasks(self):
        recycles = HAS_MAX_TASKS and self.backend == "processes" and self.chance(0.15)
        return self.random.choice((5, 20, 100)) if recycles else None

    def calls(self, found):
        n_calls = self.random.choice((1, 1, 2, 3))
        quiet = self.fault in ("none", "exception", "kill", "exit")
        return {
            "n_calls": n_calls,
            "faulty_call": self.random.randrange(n_calls),
            "block": self.chance(0.5),
            "reading": self.reading(),
            "beside": quiet and self.is_parallel and self.chance(0.15),
        }

    def reading(self):
        if self.return_as == "list":
            return "all"
        if self.fault == "none":
            return self.random.choice(("all", "slowly", "half", "dropped"))
        if self.fault == "end":
            return self.random.choice(("all", "half"))
        return self.random.choice(("all", "all", "slowly"))

    def tasks(self, found):
        choose = self.random.choice
        kinds = ["index", "bytes", "array", "view", "same", "dict", "object"]
        if self.pickles:
            kinds += ["refilled", "refilled", "touched"]  # threads get a reference
        payload = choose(kinds)
        size = choose(list(SIZES))
        if payload == "touched":
            size = max(SIZES)  # what is smaller is compared in full
        if self.fault == "disk" and size < 70_000:
            size, payload = 300_000, choose(("array", "same", "refilled"))
        most = 1200 if payload == "index" else SIZES[size]
        n_tasks = self.random.randint(1, most) if self.chance(0.7) else most
        result = choose(
            ("number", "number", "text", "array", "object", "payload", "large array")
        )
        if result == "large array":
            n_tasks = min(n_tasks, 30)
        nested = None
        if n_tasks <= 60 and self.chance(0.15):
            nested = choose(("default", "threading", "processes"))
        if nested == "processes":
            n_tasks = min(n_tasks, 6)  # they start workers of their own
        if found["max_tasks"]:
            n_tasks = min(n_tasks, 8 * found["max_tasks"])  # many starts take long
        private = found["mmap_mode"] in ("c", None)
        return {
            "n_tasks": n_tasks,
            "payload": payload,
            "size": size,
            "result": result,
            "function": choose(("module", "module", "closure", "partial", "method")),
            "work_us": choose((0, 0, 200, 2000)) if n_tasks <= 300 else 0,
            "nested": nested,
            "writes": self.pickles
            and private
            and result != "payload"
            and self.chance(0.3),
            "keeps": self.pickles and payload != "index" and self.chance(0.3),
        }

    def errors(self, found):
        on_error, retries, attempts = "raise", 0, 0
        if self.chance(0.5):
            on_error = "return"
        crashes = self.fault in ("kill", "exit", "killer")
        if crashes and self.chance(0.4):
            retries = self.random.choice((1, 2))
            attempts = self.random.choice((0, 1, 1))
        n_faulty = self.random.choice((1, 1, 2, 3))
        n_faulty = 1 if self.fault == "timeout" else min(n_faulty, found["n_tasks"])
        return {
            "on_error": on_error,
            "retries": retries,
            "attempts": attempts,
            "faulty": tuple(
                sorted(self.random.sample(range(found["n_tasks"]), n_faulty))
            ),
            "late": found["variant"] == "return_unpicklable" or self.chance(0.4),
            "timeout": FAULTY_TIMEOUT_S if self.fault == "timeout" else None,
        }

    def moment(self, found):
        after = self.random.randrange(found["n_tasks"]) + 1
        if found["variant"] == "start":
            after = 0
        if found["variant"] == "child_then_sleep":
            found["timeout"] = FAULTY_TIMEOUT_S
            found["faulty"] = found["faulty"][:1]
        delay_s = self.random.choice((0.0, 0.0, 0.0005, 0.003, 0.02))
        if after == 0:
            delay_s = self.random.random() * 0.15
        return {"after": after, "delay_s": delay_s}
