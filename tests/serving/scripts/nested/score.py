import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema


def init():
    pass


@input_schema("inputs", StandardPythonParameterType({"x": NumpyParameterType(np.array([[1.0]]), enforce_shape=False), "name": StandardPythonParameterType("n")}))
@input_schema("extra", StandardPythonParameterType(["a"]))
@output_schema(StandardPythonParameterType({"x": NumpyParameterType(np.array([1]))}))
def run(inputs, extra=None):
    return {k: repr(v) for k, v in inputs.items()} | {"extra": repr(extra)}
