"""What the server that workers are forked from imports first: it leaves signals to its driver, and dies with it.

By itself it takes note of them only once it has loaded torch, which takes seconds. It knows no job.
"""

import signal

SIGNALS = (signal.SIGINT, signal.SIGTERM)
for number in SIGNALS:
    signal.signal(number, signal.SIG_IGN)  # before what takes a while to import
signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # which who has started it had held back

from sweeps.workers.watcher import end_with_parent  # noqa: E402

end_with_parent(signal.SIGKILL)
