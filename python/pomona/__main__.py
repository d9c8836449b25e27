"""The program `pomona`."""

import ctypes
import os
import sys

from pomona._pomona import main as _main

# Of glibc's <malloc.h>, as in the program: one heap for all threads; blocks of this size are given back when they are freed, and so
# is this much unused memory at the end of the heap. Each variable in the environment overrides its parameter.
_PARAMETERS = [
    (-8, 1, "MALLOC_ARENA_MAX"),
    (-3, 640 << 10, "MALLOC_MMAP_THRESHOLD_"),
    (-1, 2 << 20, "MALLOC_TRIM_THRESHOLD_"),
]


def main() -> None:
    """Runs the command line of this process."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if sys.platform == "linux" else None
    for parameter, value, variable in _PARAMETERS:
        if mallopt is not None and variable not in os.environ:
            mallopt(parameter, value)
    sys.exit(_main(sys.argv[1:]))


if __name__ == "__main__":
    main()
