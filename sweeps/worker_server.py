"""What the server that workers are forked from imports first: it leaves Ctrl-C to its driver, and dies with it.

By itself it takes note of either only once it has loaded torch, which takes seconds.
"""

import signal

signal.signal(signal.SIGINT, signal.SIG_IGN)  # before what takes a while to import
signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})  # which who has started it had held back

from sweeps.workers import die_with_parent  # noqa: E402

die_with_parent()
