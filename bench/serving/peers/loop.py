"""Call predict of the forest on one row, again and again for the given seconds:
python loop.py FOLDER SECONDS. Prints the median time of a call, in µs."""

import pathlib
import sys
import time

import joblib
from sklearn.datasets import load_iris

model = joblib.load(pathlib.Path(sys.argv[1]) / "forest" / "forest.joblib")
row = load_iris().data[:1]
for _ in range(50):
    model.predict(row)
took = []
end = time.perf_counter() + float(sys.argv[2])
while time.perf_counter() < end:
    begun = time.perf_counter()
    model.predict(row)
    took.append(time.perf_counter() - begun)
print(sorted(took)[len(took) // 2] * 1e6)
