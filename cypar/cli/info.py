"""Show what cypar finds on this machine: CPUs, backends, temporary folder."""

from __future__ import annotations

import importlib.util
import multiprocessing
import os
import platform
import shutil
import tempfile

import cypar
from cypar.backends.registry import BACKENDS
from cypar.core.cpu import cpu_count, explain_cpu_count

# Installed or not, these are reached through their own names.
OPTIONAL_BACKENDS = {"dask": "distributed", "ray": "ray", "joblib": "joblib"}


def add_arguments(parser):
    """Add the options of this command to an ArgumentParser: there are none."""


def run(options):
    """Print the report and return 0."""
    for title, lines in (
        ("version", describe_version()),
        ("CPUs", describe_cpus()),
        ("backends", describe_backends()),
        ("start methods", describe_start_methods()),
        ("temp folder", describe_temp_folder()),
    ):
        for line in lines:
            print(f"{title:<15}{line}")
            title = ""  # printed once, beside the first line
    return 0


def describe_version():
    """Return lines with the versions of cypar, Python and the system."""
    return [
        f"cypar {cypar.__version__}",
        f"{platform.python_implementation()} {platform.python_version()}, "
        f"{platform.system()} {platform.machine()}",
    ]


def describe_cpus():
    """Return lines with the number of usable CPUs and what limits it."""
    n_cpus = cpu_count()
    lines = [f"{n_cpus} usable ({cpu_count(only_physical_cores=True)} physical)"]
    for source, limit in explain_cpu_count():
        mark = "  <- the limit" if limit == n_cpus else ""
        lines.append(f"  {source}: {'none' if limit is None else limit}{mark}")
    return lines


def describe_backends():
    """Return lines with the names that `backend=` takes."""
    lines = [", ".join(sorted(BACKENDS))]
    for name, package in OPTIONAL_BACKENDS.items():
        found = importlib.util.find_spec(package) is not None
        lines.append(f"{name}: {package} is {'' if found else 'not '}installed")
    return lines


def describe_start_methods():
    """Return lines with the start methods of the 'multiprocessing' backend."""
    return [", ".join(multiprocessing.get_all_start_methods())]


def describe_temp_folder():
    """Return lines with the folder for arrays in files and its free space."""
    source, folder = find_temp_folder()
    try:
        free = f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free"
    except OSError as error:
        free = f"unusable: {error.strerror}"
    return [f"{folder} (from {source}), {free}"]


def find_temp_folder():
    """Return (what names it, path) of the folder used when a call names none."""
    for variable in ("CYPAR_TEMP_FOLDER", "JOBLIB_TEMP_FOLDER"):
        folder = os.environ.get(variable)
        if folder:
            return variable, folder
    if os.path.isdir("/dev/shm") and os.access("/dev/shm", os.W_OK):
        return "memory file system", "/dev/shm"
    return "system default", tempfile.gettempdir()
