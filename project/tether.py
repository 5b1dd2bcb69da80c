"""Runs a Python module that ends when its parent does: `python -m project.tether MODULE ARGS`.

Standard input is the tether: a pipe whose other end the parent holds and never writes to. When the
parent ends, however it ends, the kernel closes its end. (Linux can also send a signal at the
parent's death, PR_SET_PDEATHSIG, but other systems cannot.)
"""

from __future__ import annotations

import os
import runpy
import sys
import threading


def hold_on() -> None:
    """End this process at once when standard input ends."""

    def wait_for_the_end() -> None:
        while os.read(0, 1024):
            pass
        os._exit(1)  # at once: there is nobody left to clean up for

    threading.Thread(target=wait_for_the_end, name="tether", daemon=True).start()


def main() -> None:
    """Run the module named first, with the remaining arguments, as `python -m` would."""
    del sys.argv[0]
    hold_on()
    runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
