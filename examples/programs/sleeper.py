"""Waits, ticks, and waits again: many of these run at once on one processor."""

import time

for tick in range(4):
    time.sleep(0.4)
    print("tick", tick + 1)
