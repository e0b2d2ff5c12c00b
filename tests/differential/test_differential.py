"""The same random sequences of calls against MLflow's own server and Lapis.

LAPIS_SEQUENCES  how many sequences (default 20)
LAPIS_SEED       the first one's seed (default 1); a failure names its own
LAPIS_THEMES     what they are about, "traces search"; see stories.THEMES
LAPIS_MINUTES    begin no sequence after so long (default: no limit)
"""

import os
import time

import pytest
import servers
from allowed import ALLOWED, allowed
from compare import Pair
from stories import story


def play(pair, seed, workspaces):
    """Run one story to its end or its first difference that is not allowed.

    Returns (number of calls, differences)."""
    pair.reset()
    telling = story(seed, workspaces=workspaces)
    answer, calls = None, 0
    while True:
        try:
            call = telling.send(answer)
        except StopIteration:
            return calls, []
        answer, found = pair.call(call)
        calls += 1
        found = [d for d in found if not allowed(d)]
        if found:
            return calls, found


# Lapis has MLflow's workspaces from the moment that one is made: these come last.
@pytest.mark.timeout(0)
@pytest.mark.parametrize("workspaces", [False, True], ids=["without workspaces", "in workspaces"])
def test_lapis_answers_as_mlflow_does(tmp_path, record_property, workspaces):
    first, count = int(os.environ.get("LAPIS_SEED", 1)), int(os.environ.get("LAPIS_SEQUENCES", 20))
    minutes = float(os.environ.get("LAPIS_MINUTES", "inf"))
    if workspaces:  # a quarter of all
        first, count, minutes = first + count if count > 1 else first, -(-count // 3), minutes / 3
    reference = servers.Reference(tmp_path, *(["--enable-workspaces"] if workspaces else []))
    calls, played, failures = 0, 0, []
    try:
        pair = Pair(reference, servers.lapis())
        start = time.monotonic()
        for seed in range(first, first + count):
            if time.monotonic() - start > 60 * minutes:
                break
            n, found = play(pair, seed, workspaces)
            calls, played = calls + n, played + 1
            if found:
                failures.append((seed, found))
                if len(failures) == 10:
                    break
        took = time.monotonic() - start
    finally:
        reference.close()
    print(f"{calls} calls in {played} sequences from seed {first}: {len(failures)} differ; {took:.0f} s")
    for entry in ALLOWED:
        print(f"{entry.used:6} allowed: {entry.reason[:100]}")
    record_property("calls", calls)
    assert played, "no sequence was played"
    text = "\n\n".join(f"LAPIS_SEED={s} LAPIS_SEQUENCES=1\n  " + "\n  ".join(map(str, f[:3])) for s, f in failures)
    assert not failures, "\n" + text
