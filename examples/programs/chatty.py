"""Writes and writes, until it is stopped for it."""

while True:
    print("all work and no play makes a dull log file")
