"""What Azure puts around an MLflow model without code, in short: run() with the
types of inference-schema, after the model's example or signature. It is run by
the Azure inference server, to see what that answers.

A model's folder is AZUREML_MODEL_DIR.
"""

import io
import json
import os

import numpy as np
import pandas as pd
from inference_schema.parameter_types.abstract_parameter_type import AbstractParameterType
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema
from mlflow.pyfunc import load_model
from mlflow.pyfunc.scoring_server import _get_jsonable_obj

FOLDER = os.environ["AZUREML_MODEL_DIR"]
MODEL = load_model(FOLDER)


class Anything(AbstractParameterType):
    def __init__(self):
        super().__init__(None)

    def deserialize_input(self, value):
        return value

    def input_to_swagger(self):
        return {"type": "object", "example": {}}


def sample(schema):
    """Return a value like what a signature describes; None when there is none."""
    if schema is None:
        return None
    if not schema.is_tensor_spec():
        names = schema.input_names()
        return pd.DataFrame(columns=names).astype(dict(zip(names, schema.pandas_types())))
    zeros = {spec.name: np.zeros([1 if n == -1 else n for n in spec.shape], spec.type) for spec in schema.inputs}
    return zeros if schema.has_input_names() else zeros[None]


def example():
    info = MODEL.metadata.saved_input_example_info
    if not info or info["type"] != "dataframe":
        return None
    with open(os.path.join(FOLDER, info["artifact_path"])) as f:
        return pd.read_json(io.StringIO(f.read()), orient="split", dtype=False)


def kind(value, orient):
    if isinstance(value, np.ndarray):
        return NumpyParameterType(value, enforce_shape=False)
    if isinstance(value, pd.DataFrame):
        return PandasParameterType(value, enforce_shape=False, orient=orient)
    if isinstance(value, dict):
        return StandardPythonParameterType({k: NumpyParameterType(v, enforce_shape=False) for k, v in value.items()})
    return Anything()


def params(declared):
    if declared is None:
        return Anything()
    return StandardPythonParameterType({p.name: p.default for p in declared.params})


signature = MODEL.metadata.signature
given = example()
INPUT = kind(given if given is not None else sample(signature.inputs) if signature else None, "split")
OUTPUT = kind(sample(signature.outputs) if signature else None, "records")
PARAMS = params(signature.params if signature else None)


def init():
    pass


@input_schema("input_data", INPUT)
@input_schema("params", PARAMS, optional=True)
@output_schema(OUTPUT)
def run(input_data, params=None):
    parsed = isinstance(input_data, (np.ndarray, pd.DataFrame)) or isinstance(input_data, dict) and input_data and isinstance(next(iter(input_data.values())), np.ndarray)
    if not parsed:
        if isinstance(input_data, str):
            input_data = json.loads(input_data)
        if "input_data" in input_data:
            input_data = input_data["input_data"]
        if isinstance(input_data, list):
            input_data = np.asarray(input_data)
        elif {"columns", "index", "data"} <= input_data.keys():
            input_data = pd.read_json(io.StringIO(json.dumps(input_data)), orient="split", dtype=False)
        else:
            input_data = {k: np.asarray(v) for k, v in input_data.items()}
    return _get_jsonable_obj(MODEL.predict(input_data, params=params), pandas_orient="records")
