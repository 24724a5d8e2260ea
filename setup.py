"""Compile every .pyx under cypar/. All metadata is in pyproject.toml.

Environment variables:
CYPAR_CHECKED=1    bounds, None and division checks on, annotated HTML, debug symbols
CYPAR_CYTHON_DIR   where the generated C goes (default build/cython or
                   build/checked/cython)
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CHECKED = os.environ.get("CYPAR_CHECKED") == "1"
C_FLAGS = ["-pthread", "-fno-strict-aliasing", "-fvisibility=hidden"]
C_FLAGS += ["-O1", "-g"] if CHECKED else ["-O3", "-g0"]
DIRECTIVES = {
    "language_level": 3,
    "embedsignature": True,
    "wraparound": False,
    "boundscheck": CHECKED,
    "initializedcheck": CHECKED,
    "cdivision": not CHECKED,
}


def extensions():
    """Return one Extension for each .pyx file, named by its path."""
    on_windows = os.name == "nt"
    return [
        Extension(
            ".".join(path.with_suffix("").parts),
            [str(path)],
            include_dirs=["cypar/core"],  # for _port.h
            depends=[*map(str, Path("cypar/core").glob("*.h")), "setup.py"],
            extra_compile_args=["/O2"] if on_windows else C_FLAGS,
            libraries=[] if on_windows else ["m"],
            extra_link_args=[] if on_windows else ["-pthread"],
        )
        for path in sorted(Path("cypar").rglob("*.pyx"))
    ]


def directives_changed(cython_dir):
    """Tell whether a C file is older than this file: Cython looks at .pyx only."""
    edited = os.path.getmtime("setup.py")
    return any(c.stat().st_mtime < edited for c in Path(cython_dir).rglob("*.c"))


def main():
    # Each mode has its own folder, so that switching rebuilds what it has to.
    base = "build/checked" if CHECKED else "build"
    cython_dir = os.environ.get("CYPAR_CYTHON_DIR", f"{base}/cython")
    n_cpus = os.cpu_count() or 1
    setup(
        ext_modules=cythonize(
            extensions(),
            nthreads=n_cpus,
            force=directives_changed(cython_dir),
            annotate=CHECKED,
            build_dir=cython_dir,  # keeps generated .c out of the source tree
            compiler_directives=DIRECTIVES,
        ),
        options={
            "build": {"build_base": base},
            "build_ext": {"parallel": n_cpus},
        },
    )


if __name__ == "__main__":  # cythonize's own worker processes import this file
    main()
