#!/usr/bin/env python3
"""Sets the results of a second try beside those of the first: who passed then is told by name, and counts as passed."""

from __future__ import annotations

import json
import sys
from pathlib import Path

MOST = 20  # failures that may be an accident of a busy machine; more of them are none


def records(path: Path) -> list[dict[str, object]]:
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.strip()]


def failed(path: Path) -> list[str]:
    last: dict[str, str] = {}
    for record in records(path):
        if "test" in record:
            test, outcome = str(record["test"]), str(record["outcome"])
            if last.get(test) != "failed":
                last[test] = outcome
    return [test for test, outcome in last.items() if outcome in ("failed", "started")]


def main() -> int:
    first = Path(sys.argv[1])
    if len(sys.argv) == 2:  # which to try again, one a line
        tests = failed(first)
        print("\n".join(tests if len(tests) <= MOST else []))
        return 0
    second = Path(sys.argv[2])
    still = set(failed(second))
    wanted = set(failed(first))
    passed = wanted & {str(r["test"]) for r in records(second) if r.get("outcome") == "passed"} - still
    kept = [r for r in records(first) if r.get("test") not in passed]
    kept += [{"test": test, "outcome": "passed", "reason": "on the second try"} for test in sorted(passed)]
    first.write_text("".join(json.dumps(record) + "\n" for record in kept))
    for test in sorted(passed):
        print(f"passed on the second try only: {test}")
    return 0 if wanted <= passed else 1


if __name__ == "__main__":
    sys.exit(main())
