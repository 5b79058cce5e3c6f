#!/usr/bin/env python3
"""Merges the results of all places into one table: what ran where, what did not and why, and what ran nowhere.

Reads DIR/PLACE.jsonl, as tests/results.py writes them.

table.py DIR               prints the closing table
table.py --broke-off FILE  prints the test that a run broke off in, if its file's last word is that one started
table.py --for-guests DIR  prints the tests that the guests should run: those that ran nowhere yet, and those about cgroups
"""

from __future__ import annotations

import json
import sys
from collections import Counter, defaultdict
from pathlib import Path

PLACES = ["root", "user", "guest-v2", "guest-systemd"]
OUTCOMES = ["passed", "failed", "skipped"]
WEIGHT = ["skipped", "passed", "failed"]  # of two runs of a test, the later of these counts
# Run in the guests too, wherever else they ran: what is about cgroups and systemd, and what is marked for it.
GUEST_NEEDS = {
    "guest",
    "limits",
    "cgroup2",
    "systemd",
    "systemd-user",
    "swap",
    "place-v2",
    "place-systemd",
    "place-delegated",
}


class Results:
    """outcome[place][test], why[place][test], needs[test], seconds[place], notes[place]"""

    def __init__(self, folder: Path) -> None:
        self.outcome: dict[str, dict[str, str]] = defaultdict(dict)
        self.why: dict[str, dict[str, str]] = defaultdict(dict)
        self.needs: dict[str, list[str]] = {}
        self.seconds: Counter[str] = Counter()
        self.slow: list[tuple[float, str, str]] = []
        self.notes: dict[str, str] = {}
        for path in sorted(folder.glob("*.jsonl")):
            running: dict[str, str] = {}
            for line in path.read_text().splitlines():
                self.take(path.stem, json.loads(line), running)
            for test, reason in running.items():  # it started and never ended: it took its run down with it
                self.note(path.stem, test, "failed", reason)

    def take(self, place: str, record: dict, running: dict[str, str]) -> None:
        if "not-run" in record:
            self.notes[place] = f"not run: {record['not-run']}"
        elif "place-failed" in record:
            self.notes[place] = f"its run ended with status {record['place-failed']}"
        elif "lacks" in record:  # collected only
            self.note(place, record["test"], "skipped" if record["lacks"] else "passed", "")
            self.needs.setdefault(record["test"], record["needs"])
        elif record["outcome"] == "started":
            running[record["test"]] = record["reason"]
        else:
            running.pop(record["test"], None)
            self.note(place, record["test"], record["outcome"], record.get("reason", ""))
            self.needs.setdefault(record["test"], record.get("needs", []))
            self.seconds[place] += record.get("seconds", 0)
            self.slow.append((record.get("seconds", 0), place, record["test"]))

    def note(self, place: str, test: str, outcome: str, reason: str) -> None:
        """A guest runs some tests as two users: of two outcomes the heavier one stands."""
        if WEIGHT.index(outcome) >= WEIGHT.index(self.outcome[place].get(test, "skipped")):
            self.outcome[place][test], self.why[place][test] = outcome, reason

    def once(self) -> dict[str, str]:
        """Each test counted once: failed if it failed anywhere, passed if it passed somewhere, else skipped."""
        found: dict[str, str] = {}
        for tests in self.outcome.values():
            for test, outcome in tests.items():
                name = test.replace("[asyncio-debug", "[asyncio")  # one loop, of which each place has one mode
                found[name] = max(outcome, found.get(name, "skipped"), key=WEIGHT.index)
        return found


def area(test: str) -> str:
    parts = test.split("::")[0].split("/")
    return parts[0] if parts[0] != "tests" else parts[1] if len(parts) > 2 else "."


def counts(outcomes: list[str]) -> str:
    found = Counter(outcomes)
    return "/".join(str(found[outcome]) for outcome in OUTCOMES) if outcomes else "-"


def print_table(results: Results) -> None:
    places = [place for place in PLACES if place in results.outcome or place in results.notes]
    every = {test for tests in results.outcome.values() for test in tests}
    checks = [results.outcome["checks"][test] for test in results.outcome["checks"]]
    areas = sorted({area(test) for test in every} - {"checks"})
    rows = [["area", *places], ["checks", counts(checks), *[""] * (len(places) - 1)]]
    for name in areas:
        rows.append([name])
        for place in places:
            rows[-1].append(counts([o for test, o in results.outcome[place].items() if area(test) == name]))
    rows.append(["all", *(counts(list(results.outcome[place].values())) for place in places)])
    rows.append(["minutes", *(f"{results.seconds[place] / 60:.1f}" for place in places)])
    widths = [max(len(row[column]) for row in rows if column < len(row)) for column in range(len(rows[0]))]
    print("\nWhat ran where: passed/failed/skipped\n")
    for number, row in enumerate(rows):
        line = (
            row[0].ljust(widths[0]),
            *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=False)),
        )
        print("  ".join(line).rstrip())
        if number in (0, len(rows) - 3):
            print("-" * (sum(widths) + 2 * len(widths) - 2))
    for place, note in results.notes.items():
        print(f"{place}: {note}")

    for place in places:
        reasons = Counter(results.why[place][t] for t, o in results.outcome[place].items() if o == "skipped")
        if reasons:
            print(f"\nSkipped as {place}:" if place in ("root", "user") else f"\nSkipped in {place}:")
            for reason, number in reasons.most_common():
                print(f"  {number:5} {reason[:220]}")
    print("\nSlowest:")
    for seconds, place, test in sorted(results.slow, reverse=True)[:10]:
        print(f"  {seconds:5.1f} s {place}: {test}")
    once = results.once()
    nowhere = sorted(test for test, outcome in once.items() if outcome == "skipped")
    if nowhere:
        print("\nRan in no place:")
        for test in nowhere:
            names = (test, test.replace("[asyncio", "[asyncio-debug"))
            why = next(tests[name] for tests in results.why.values() for name in names if name in tests)
            print(f"  {test}: {why}")
    bad = [
        (place, test)
        for place, tests in results.outcome.items()
        for test, o in tests.items()
        if o == "failed"
    ]
    if bad:
        print("\nFailed:")
        for place, test in bad:
            first = results.why[place][test].strip().splitlines()[:1]
            print(f"  {place}: {test}{': ' + first[0][:200] if first else ''}")
    total = Counter(once.values())
    print("\nEach test counted once (failed if it failed anywhere, skipped if it ran nowhere):")
    print(", ".join(f"{total[outcome]} {outcome}" for outcome in OUTCOMES))


def print_for_guests(results: Results) -> None:
    for test, outcome in sorted(results.once().items()):
        if test.startswith("checks/"):
            continue
        needs = results.needs.get(test) or results.needs.get(test.replace("[asyncio", "[asyncio-debug"), [])
        if outcome == "skipped" or GUEST_NEEDS & set(needs):
            print(test)


def print_broke_off(path: Path) -> None:
    lines = path.read_text().splitlines() if path.exists() else []
    last = json.loads(lines[-1]) if lines else {}
    if last.get("outcome") == "started":
        print(last["test"])


if __name__ == "__main__":
    if sys.argv[1] == "--broke-off":
        sys.exit(print_broke_off(Path(sys.argv[2])))
    if sys.argv[1] == "--for-guests":
        print_for_guests(Results(Path(sys.argv[2])))
    else:
        print_table(Results(Path(sys.argv[1])))
