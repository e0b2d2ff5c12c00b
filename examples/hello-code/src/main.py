"""Greet someone, and leave a file in ./outputs."""

import argparse
import os
import pathlib

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--name", required=True)
parser.add_argument("--times", type=int, default=1)
args = parser.parse_args()

greeting = f"{os.environ.get('GREETING', 'hello')}, {args.name}"
for _ in range(args.times):
    print(greeting, flush=True)

outputs = pathlib.Path("outputs")
outputs.mkdir(exist_ok=True)
(outputs / "greeting.txt").write_text(greeting + "\n")
