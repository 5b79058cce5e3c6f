"""System calls that a container's filter hands on: the listeners, the calls that wait for an answer, and those that were refused."""
