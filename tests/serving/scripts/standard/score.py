import datetime

from inference_schema.parameter_types.standard_py_parameter_type import StandardPythonParameterType
from inference_schema.schema_decorators import input_schema, output_schema


def init():
    pass


@input_schema("text", StandardPythonParameterType("a"))
@input_schema("number", StandardPythonParameterType(1.5))
@input_schema("whole", StandardPythonParameterType(1), optional=True)
@input_schema("flags", StandardPythonParameterType([True]))
@input_schema("thing", StandardPythonParameterType({"a": 1, "b": ["x"]}))
@input_schema("raw", StandardPythonParameterType(b"abc"))
@input_schema("when", StandardPythonParameterType(datetime.datetime(2024, 1, 2, 3, 4, 5)))
@output_schema(StandardPythonParameterType({"all": ["x"]}))
def run(text, number, flags, thing, raw, when, whole=7):
    return {"all": [repr(v) for v in (text, number, flags, thing, raw, when, whole)]}
