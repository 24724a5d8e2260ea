"""What the figures were measured on, and whether it had two cores to give."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path

HERE = Path(__file__).parent
PACKAGES = ("cypar", "joblib", "numpy", "cloudpickle", "pytest-benchmark")

# Below this many cores' worth of work, two busy processes were not served as two.
FEWEST_CORES = 1.9


class Spinners:
    """Two processes that count as fast as they can, on demand.

    They idle, blocked in a read, between checks.
    """

    def __init__(self):
        command = [sys.executable, "-I", "-S", str(HERE / "probes" / "spin.py")]
        self.processes = [
            subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
            )
            for _ in range(2)
        ]
        for process in self.processes:
            process.stdout.readline()  # it is up

    def cores(self, duration_s=0.1):
        """Return how many cores two spinners got: 2.0 on an idle machine of two."""
        alone = [self._count([p], duration_s)[0] for p in self.processes]
        together = self._count(self.processes, duration_s)
        return sum(t / a for t, a in zip(together, alone, strict=True))

    def _count(self, processes, duration_s):
        for process in processes:
            process.stdin.write(f"{duration_s}\n")
            process.stdin.flush()
        return [int(process.stdout.readline()) for process in processes]

    def close(self):
        for process in self.processes:
            with process:
                process.kill()


def describe():
    """Return machine, versions and date as a dict of plain values."""
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "processor": processor_name(),
        "cpu_count": os.cpu_count(),
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "commit": commit(),
        "packages": {name: version(name) for name in PACKAGES},
    }


def processor_name():
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.processor()
    names = [line for line in text.splitlines() if line.startswith("model name")]
    return names[0].partition(":")[2].strip() if names else platform.processor()


def version(package):
    """Return a package's version; cypar may be built in place, not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return getattr(sys.modules.get(package), "__version__", None)


def commit():
    """Return the commit of the sources around this folder, or None."""
    try:
        git = subprocess.run(
            ["git", "describe", "--always", "--dirty", "--abbrev=10"],
            cwd=HERE,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return None
    return git.stdout.strip()
