"""Train a classifier on the iris data and track it with MLflow."""

import argparse
import warnings
from importlib.metadata import version

import mlflow
import mlflow.sklearn
import pandas as pd
from mlflow.models import infer_signature
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import accuracy_score, confusion_matrix, f1_score, log_loss
from sklearn.model_selection import train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler


def fit(x, y, C, iterations):
    model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=iterations))
    return model.fit(x, y)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", required=True, help="CSV file: four measures and the species")
    parser.add_argument("--C", type=float, default=1.0, help="inverse strength of the regularisation")
    parser.add_argument("--model", required=True, help="folder to write the model to")
    args = parser.parse_args()

    iris = pd.read_csv(args.data)
    print(f"read {len(iris)} flowers of {iris['species'].nunique()} species", flush=True)
    train, test = train_test_split(iris, test_size=0.3, stratify=iris["species"], random_state=7)
    train_x, train_y = train.drop(columns="species"), train["species"]
    test_x, test_y = test.drop(columns="species"), test["species"]

    with mlflow.start_run():
        # How the loss falls as the training goes on. Stopping early is the
        # point here, so scikit-learn need not warn that it did not converge.
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for iterations in range(1, 16):
                early = fit(train_x, train_y, args.C, iterations)
                loss = log_loss(test_y, early.predict_proba(test_x))
                mlflow.log_metric("test_loss", loss, step=iterations)
                print(f"{iterations:2d} iterations  test loss {loss:.4f}", flush=True)

        # Parameters and training metrics of what follows are logged by MLflow itself.
        mlflow.sklearn.autolog(log_models=False, log_datasets=False, silent=True)
        model = fit(train_x, train_y, args.C, 100)

        found = model.predict(test_x)
        accuracy = accuracy_score(test_y, found)
        mlflow.log_metrics({"test_accuracy": accuracy, "test_f1": f1_score(test_y, found, average="macro")})

        names = list(model.classes_)
        matrix = pd.DataFrame(confusion_matrix(test_y, found, labels=names), index=names, columns=names)
        mlflow.log_text(matrix.to_csv(index_label="true \\ found"), "confusion_matrix.csv")
        print(f"\naccuracy {accuracy:.3f} on {len(test)} flowers\n{matrix}\n", flush=True)

        mlflow.sklearn.save_model(
            model,
            args.model,
            signature=infer_signature(test_x, found),
            pip_requirements=[f"{name}=={version(name)}" for name in ("mlflow-skinny", "scikit-learn", "pandas", "skops")],
        )
        print("the model is written", flush=True)


if __name__ == "__main__":
    main()
