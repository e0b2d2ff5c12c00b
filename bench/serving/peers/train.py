"""Train one forest of 100 trees and write it in every form that is served:
python train.py FOLDER."""

import json
import pathlib
import sys

import joblib
import mlflow
import numpy as np
from skl2onnx import to_onnx
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier

folder = pathlib.Path(sys.argv[1])
x, y = load_iris(return_X_y=True)
model = RandomForestClassifier(n_estimators=100, random_state=7).fit(x, y)
(folder / "forest").mkdir(parents=True)
joblib.dump(model, folder / "forest" / "forest.joblib")
graph = to_onnx(model, x[:1].astype(np.float32), options={"zipmap": False})
(folder / "forest.onnx").write_bytes(graph.SerializeToString())
mlflow.sklearn.save_model(model, str(folder / "mlflow"), serialization_format="cloudpickle", pip_requirements=[])

(folder / "mlserver").mkdir()
joblib.dump(model, folder / "mlserver" / "forest.joblib")
settings = {"name": "forest", "implementation": "mlserver_sklearn.SKLearnModel", "parameters": {"uri": "./forest.joblib", "version": "v1"}}
(folder / "mlserver" / "model-settings.json").write_text(json.dumps(settings))
