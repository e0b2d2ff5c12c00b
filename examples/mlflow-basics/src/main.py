"""Log parameters, metrics, tags and artefacts to the job's own run."""

import math

import mlflow

with mlflow.start_run() as run:
    print("run", run.info.run_id, flush=True)
    mlflow.log_params({"learning_rate": 0.1, "steps": 50})
    mlflow.set_tag("purpose", "example")
    for step in range(50):
        mlflow.log_metrics({"loss": math.exp(-step / 10), "accuracy": 1 - math.exp(-step / 8)}, step=step)
    mlflow.log_dict({"classes": ["a", "b"]}, "labels.json")
    mlflow.log_text("It went well.\n", "notes/summary.txt")
