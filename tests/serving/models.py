"""MLflow models of many kinds, made by MLflow itself.

make(name, folder) saves one; NAMES lists them. Run as a program it makes all of
them: python models.py FOLDER.
"""

import pathlib
import sys

import cloudpickle
import mlflow
import numpy as np
import pandas as pd
from mlflow.models import ModelSignature, infer_signature
from mlflow.types.schema import ColSpec, ParamSchema, ParamSpec, Schema, TensorSpec

# What stands here is kept within the models, so that they load anywhere.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

COLUMNS = ["sepal length", "sepal width", "petal length", "petal width"]


def iris():
    from sklearn.datasets import load_iris

    data = load_iris()
    return pd.DataFrame(data.data, columns=COLUMNS), data.target


def forest(folder):
    from sklearn.ensemble import RandomForestClassifier

    x, y = iris()
    model = RandomForestClassifier(n_estimators=10, random_state=1).fit(x, y)
    mlflow.sklearn.save_model(
        model, folder, signature=infer_signature(x, model.predict(x)), input_example=x.head(2), serialization_format="cloudpickle", pip_requirements=[]
    )


def linear(folder):
    """Kept by skops, which is MLflow's default; no example."""
    from sklearn.linear_model import LogisticRegression

    x, y = iris()
    model = LogisticRegression(max_iter=500).fit(x, y)
    mlflow.sklearn.save_model(model, folder, signature=infer_signature(x, model.predict(x)), pip_requirements=[])


def bare(folder):
    """Neither signature nor example."""
    from sklearn.linear_model import LinearRegression

    model = LinearRegression().fit(np.arange(20.0).reshape(10, 2), np.arange(10.0))
    mlflow.sklearn.save_model(model, folder, serialization_format="cloudpickle", pip_requirements=[])


def lightgbm(folder):
    import lightgbm as lgb

    x, y = iris()
    x = x.rename(columns=lambda c: c.replace(" ", "_"))
    model = lgb.LGBMClassifier(n_estimators=5, verbose=-1).fit(x, y)
    mlflow.lightgbm.save_model(model, folder, signature=infer_signature(x, model.predict(x)), input_example=x.head(3), pip_requirements=[])


def onnx(folder):
    from skl2onnx import to_onnx
    from sklearn.ensemble import RandomForestClassifier

    x, y = iris()
    model = RandomForestClassifier(n_estimators=10, random_state=1).fit(x.values, y)
    graph = to_onnx(model, x.values[:1].astype(np.float32), options={"zipmap": False})
    signature = ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 4), "X")]))
    mlflow.onnx.save_model(graph, folder, signature=signature, pip_requirements=[])


class Function(mlflow.pyfunc.PythonModel):
    def __init__(self, function):
        self.function = function

    def predict(self, context, model_input, params=None):
        return self.function(model_input, params)


def function(folder, work, signature=None, example=None):
    mlflow.pyfunc.save_model(folder, python_model=Function(work), signature=signature, input_example=example, pip_requirements=[])


def told(value):
    """What a model was given, as something that shows its types."""
    if isinstance(value, pd.DataFrame):
        return {"table": [str(c) for c in value.columns], "types": [str(t) for t in value.dtypes], "rows": [[repr(v) for v in row] for row in value.values.tolist()]}
    if isinstance(value, np.ndarray):
        return {"array": list(value.shape), "type": str(value.dtype), "values": repr(value.tolist())}
    if isinstance(value, dict):
        return {str(k): told(v) for k, v in value.items()}
    return {"value": repr(value), "type": type(value).__name__}


def tell(data, params):
    return [{"data": told(data), "params": {k: repr(v) for k, v in (params or {}).items()}}]


def typed(folder):
    """A column of each type."""
    kinds = ["integer", "long", "float", "double", "string", "boolean", "binary", "datetime"]
    function(folder, tell, ModelSignature(inputs=Schema([ColSpec(k, "a " + k) for k in kinds])))


def optional(folder):
    inputs = Schema([ColSpec("double", "x"), ColSpec("double", "y", required=False), ColSpec("string", "s", required=False)])
    function(folder, tell, ModelSignature(inputs=inputs))


def params(folder):
    declared = ParamSchema([ParamSpec("n", "long", 3), ParamSpec("t", "double", 0.5), ParamSpec("s", "string", "a"), ParamSpec("l", "long", [1, 2], shape=(-1,)), ParamSpec("b", "boolean", True)])
    function(folder, tell, ModelSignature(inputs=Schema([ColSpec("double", "x")]), params=declared))


def tensor(folder):
    function(folder, lambda data, params: data * 2, ModelSignature(inputs=Schema([TensorSpec(np.dtype("float64"), (-1, 3))]), outputs=Schema([TensorSpec(np.dtype("float64"), (-1, 3))])))


def integers(folder):
    function(folder, tell, ModelSignature(inputs=Schema([TensorSpec(np.dtype("int64"), (-1, 2))])))


def named(folder):
    inputs = Schema([TensorSpec(np.dtype("float32"), (-1, 2), "a"), TensorSpec(np.dtype("int64"), (-1,), "b")])
    function(folder, tell, ModelSignature(inputs=inputs))


def untyped(folder):
    function(folder, tell)


def text(folder):
    function(folder, tell, ModelSignature(inputs=Schema([ColSpec("string")])))


REPLIES = {
    "series": lambda data, params: pd.Series([1.5, float("nan")]),
    "frame": lambda data, params: pd.DataFrame({"a": [1, 2], "b": ["x", None], "when": pd.to_datetime(["2024-01-02", "2024-05-06T07:08:09"])}),
    "nothing": lambda data, params: None,
    "bytes": lambda data, params: b"\x00\x01two",
    "sentence": lambda data, params: "ein \u2603",
    "scalars": lambda data, params: {"i": np.int64(3), "f": np.float32(0.1), "a": np.arange(3), "inf": float("inf")},
    "object": lambda data, params: object(),
    "raise": lambda data, params: 1 / 0,
    "dates": lambda data, params: np.array(["2024-01-02", "NaT"], dtype="datetime64[ns]"),
}


def answer(data, params):
    """Answer as the first cell asks."""
    name = data.iloc[0, 0] if isinstance(data, pd.DataFrame) else np.asarray(data).reshape(-1)[0]
    return REPLIES[str(name)](data, params)


def replies(folder):
    function(folder, answer, ModelSignature(inputs=Schema([ColSpec("string", "what")])))


NAMES = {f.__name__: f for f in [forest, linear, bare, lightgbm, onnx, typed, optional, params, tensor, integers, named, untyped, text, replies]}


def make(name, folder):
    """Save the model of a name in a folder that does not exist yet."""
    NAMES[name](str(folder))


if __name__ == "__main__":
    for each in NAMES:
        make(each, pathlib.Path(sys.argv[1]) / each)
