"""The program `pomona`."""

import ctypes
import os
import sys

from pomona._pomona import main as _main

# Of glibc's <malloc.h>: the number of heaps.
_M_ARENA_MAX = -8


def main() -> None:
    """Runs the command line of this process."""
    if sys.platform == "linux" and "MALLOC_ARENA_MAX" not in os.environ:
        # With a heap for each thread, memory grows with the number of shards.
        mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
        if mallopt is not None:
            mallopt(_M_ARENA_MAX, 1)
    sys.exit(_main(sys.argv[1:]))


if __name__ == "__main__":
    main()
