import argparse

import pandas

parser = argparse.ArgumentParser()
parser.add_argument("--iris-csv", required=True)
flowers = pandas.read_csv(parser.parse_args().iris_csv)
print(flowers.describe())
assert len(flowers) > 100, f"{len(flowers)} rows"
