import argparse

import pandas
from sklearn.linear_model import SGDClassifier
from tabulate import tabulate
import mlflow

parser = argparse.ArgumentParser()
parser.add_argument("--iris-csv", required=True)
parser.add_argument("--epochs", type=int, required=True)
parser.add_argument("--lr", type=float, required=True)
args = parser.parse_args()

flowers = pandas.read_csv(args.iris_csv)
rows, kinds = flowers.drop(columns="species"), flowers["species"]
model = SGDClassifier(eta0=args.lr, learning_rate="constant", random_state=0)
for epoch in range(args.epochs):
    model.partial_fit(rows, kinds, classes=sorted(set(kinds)))
    mlflow.log_metric("accuracy", model.score(rows, kinds), step=epoch)
print(tabulate([[args.epochs, args.lr]], headers=["epochs", "lr"]))
