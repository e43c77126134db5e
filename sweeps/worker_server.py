"""What the server that workers are forked from imports first: it dies with its driver.

By itself it takes note of a driver's end only once it has loaded torch, which takes seconds.
"""

from sweeps.workers import die_with_parent

die_with_parent()
