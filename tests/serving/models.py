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


def boosted(folder):
    import xgboost

    x, y = iris()
    model = xgboost.XGBClassifier(n_estimators=6, max_depth=3).fit(x, y)
    mlflow.xgboost.save_model(model, folder, model_format="json", signature=infer_signature(x, model.predict(x)), input_example=x.head(2), pip_requirements=[])


def booster(folder):
    import xgboost

    x, y = iris()
    model = xgboost.train({"objective": "reg:squarederror"}, xgboost.DMatrix(x, y), 6)
    mlflow.xgboost.save_model(model, folder, model_format="ubj", signature=infer_signature(x, model.predict(xgboost.DMatrix(x))), pip_requirements=[])


def boosted_bare(folder):
    """Neither signature nor names of columns."""
    import xgboost

    x, y = iris()
    mlflow.xgboost.save_model(xgboost.XGBRegressor(n_estimators=6).fit(x.values, y), folder, model_format="json", pip_requirements=[])


KINDS = ["double", "float", "long", "integer", "boolean"]


def mixed():
    """A table with a column of each type that trees take; the last may be missing."""
    rng = np.random.default_rng(3)
    x = pd.DataFrame({
        "double": rng.normal(size=200), "float": rng.normal(size=200).astype("float32"), "long": rng.integers(0, 9, 200), "integer": rng.integers(0, 9, 200).astype("int32"),
        "boolean": rng.random(200) < 0.5, "may": rng.normal(size=200),
    })  # fmt: skip
    return x, (x["double"] + x["long"] + x["boolean"] > 4).astype(int)


def mixed_signature():
    return ModelSignature(inputs=Schema([ColSpec(k, k) for k in KINDS] + [ColSpec("double", "may", required=False)]))


def boosted_mixed(folder):
    import xgboost

    x, y = mixed()
    mlflow.xgboost.save_model(xgboost.XGBClassifier(n_estimators=5).fit(x, y), folder, model_format="json", signature=mixed_signature(), pip_requirements=[])


def light(folder):
    import lightgbm as lgb

    x, y = iris()
    x = x.rename(columns=lambda c: c.replace(" ", "_"))
    model = lgb.train({"objective": "multiclass", "num_class": 3, "verbose": -1}, lgb.Dataset(x, y), 5)
    mlflow.lightgbm.save_model(model, folder, signature=infer_signature(x, model.predict(x)), input_example=x.head(2), pip_requirements=[])


def light_bare(folder):
    import lightgbm as lgb

    x, y = iris()
    mlflow.lightgbm.save_model(lgb.train({"objective": "regression", "verbose": -1}, lgb.Dataset(x.values, y), 5), folder, pip_requirements=[])


def light_mixed(folder):
    import lightgbm as lgb

    x, y = mixed()
    mlflow.lightgbm.save_model(lgb.train({"objective": "binary", "verbose": -1}, lgb.Dataset(x, y), 5), folder, signature=mixed_signature(), pip_requirements=[])


def graph(nodes, inputs, outputs):
    """An ONNX model; inputs and outputs are (name, type, shape)."""
    from onnx import checker, helper

    values = [[helper.make_tensor_value_info(*v) for v in side] for side in (inputs, outputs)]
    model = helper.make_model(helper.make_graph([helper.make_node(*n) for n in nodes], "g", *values), opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    checker.check_model(model)
    return model


def doubled():
    return graph([("Add", ["X", "X"], ["Y"])], [("X", 1, ["n", 3])], [("Y", 1, ["n", 3])])


def vectors(text=False):
    """With an output for each of its inputs, which have a type each; that of texts is there where it is asked for."""
    inputs = [("a", 1, ["n"]), ("b", 7, ["n"]), ("s", 8, ["n"])]
    outputs = [("minus", 1, ["n"]), ("twice", 7, ["n"]), ("same", 8, ["n"])]
    nodes = [("Neg", ["a"], ["minus"]), ("Add", ["b", "b"], ["twice"]), ("Identity", ["s"], ["same"])]
    return graph(*(side if text else side[:2] for side in (nodes, inputs, outputs)))


def onnx_bare(folder):
    mlflow.onnx.save_model(doubled(), folder, pip_requirements=[])


def onnx_columns(folder):
    mlflow.onnx.save_model(vectors(), folder, signature=ModelSignature(inputs=Schema([ColSpec("float", "a"), ColSpec("long", "b")])), pip_requirements=[])


def onnx_matrix(folder):
    mlflow.onnx.save_model(doubled(), folder, signature=ModelSignature(inputs=Schema([ColSpec("double", c) for c in "abc"])), pip_requirements=[])


def onnx_named(folder):
    inputs = Schema([TensorSpec(np.dtype("float32"), (-1,), "a"), TensorSpec(np.dtype("int64"), (-1,), "b"), TensorSpec(np.dtype("str"), (-1,), "s")])
    mlflow.onnx.save_model(vectors(text=True), folder, signature=ModelSignature(inputs=inputs), pip_requirements=[])


def onnx_unnamed(folder):
    mlflow.onnx.save_model(doubled(), folder, signature=ModelSignature(inputs=Schema([TensorSpec(np.dtype("float32"), (-1, 3))])), pip_requirements=[])


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


NAMES = {f.__name__: f for f in [
    forest, linear, bare, lightgbm, onnx, typed, optional, params, tensor, integers, named, untyped, text, replies, boosted, booster, boosted_bare, boosted_mixed, light, light_bare, light_mixed,
    onnx_bare, onnx_columns, onnx_matrix, onnx_named, onnx_unnamed,
]}  # fmt: skip

# Models that are scored without Python, and as what.
NATIVE = {
    "onnx": "onnx", "onnx_bare": "onnx", "onnx_columns": "onnx", "onnx_matrix": "onnx", "onnx_named": "onnx", "onnx_unnamed": "onnx",
    "boosted": "xgboost", "booster": "xgboost", "boosted_bare": "xgboost", "boosted_mixed": "xgboost", "light": "lightgbm", "light_bare": "lightgbm", "light_mixed": "lightgbm",
}  # fmt: skip


def make(name, folder):
    """Save the model of a name in a folder that does not exist yet."""
    NAMES[name](str(folder))


if __name__ == "__main__":
    for each in NAMES:
        make(each, pathlib.Path(sys.argv[1]) / each)
