"""Seccomp filters: from what a Spec says to the kernel's program, in pure Python.

rules      a filter as values                  numbers     the kernel's calls on each processor
default    the default profile                 arguments   which arguments are 32 bits wide
strict     computing only                      compiler    Policy to a tree, program: tree to BPF
oci        Docker's and the OCI's JSON         simulate    what a program answers
filters    all of it behind `compile_filter`
"""

from __future__ import annotations

from .filters import Filter, compile_filter, explain, summary, verdict

__all__ = ["Filter", "compile_filter", "explain", "summary", "verdict"]
