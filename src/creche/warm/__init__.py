"""Warm pools: a template process that forks, the containers that come of it, and Python functions as runs of theirs."""
