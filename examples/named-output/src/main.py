"""Count the words of each file in a folder; write to two named outputs."""

import argparse
import collections
import json
import pathlib

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--words", type=pathlib.Path, required=True)
parser.add_argument("--counts", type=pathlib.Path, required=True)
parser.add_argument("--longest", type=pathlib.Path, required=True)
args = parser.parse_args()

longest = ""
args.counts.mkdir(parents=True, exist_ok=True)
for path in sorted(args.words.rglob("*.txt")):
    words = path.read_text().split()
    counts = dict(collections.Counter(words).most_common())
    (args.counts / f"{path.stem}.json").write_text(json.dumps(counts, indent=2) + "\n")
    longest = max([longest, *words], key=len)
    print(path.name, len(words), "words", flush=True)

args.longest.parent.mkdir(parents=True, exist_ok=True)
args.longest.write_text(longest + "\n")
