"""Sum up the JUnit files of a folder, one line for each and one for all.

Exits 1 when a test failed, or when there is nothing to sum up.
"""

import pathlib
import sys
import xml.etree.ElementTree as ET


def count(path):
    """Return (passed, failed, skipped, seconds) of one JUnit file."""
    total = failed = skipped = 0
    seconds = 0.0
    for case in ET.parse(path).getroot().iter("testcase"):
        total += 1
        seconds += float(case.get("time") or 0)
        kinds = {child.tag for child in case}
        if kinds & {"failure", "error"}:
            failed += 1
        elif "skipped" in kinds:
            skipped += 1
    return total - failed - skipped, failed, skipped, seconds


def main(folder):
    files = sorted(pathlib.Path(folder).glob("*.xml"))
    if not files:
        sys.exit(f"no results in {folder}")
    sums = [0, 0, 0]
    print()
    for path in files:
        passed, failed, skipped, seconds = count(path)
        print(f"{path.stem:10} {passed:5} passed, {failed} failed, {skipped} skipped, {seconds:.0f} s of tests")
        sums = [a + b for a, b in zip(sums, (passed, failed, skipped))]
    print("{} passed, {} failed, {} skipped".format(*sums))
    return 1 if sums[1] else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
