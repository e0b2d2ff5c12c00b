import numpy as np
from inference_schema.parameter_types.numpy_parameter_type import NumpyParameterType
from inference_schema.schema_decorators import input_schema, output_schema

SAMPLE = np.array([[1.5, 2.0, 3.0]])


def init():
    pass


@input_schema("data", NumpyParameterType(SAMPLE))
@output_schema(NumpyParameterType(np.array([1.0])))
def run(data):
    return {"shape": list(data.shape), "type": str(data.dtype), "sum": data.sum(axis=1).tolist()}
