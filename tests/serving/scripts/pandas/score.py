import pandas as pd
from inference_schema.parameter_types.pandas_parameter_type import PandasParameterType
from inference_schema.schema_decorators import input_schema, output_schema

SAMPLE = pd.DataFrame({"i": [1], "f": [1.5], "s": ["a"], "b": [True], "t": pd.to_datetime(["2024-01-02T03:04:05"])})


def init():
    pass


@input_schema("data", PandasParameterType(SAMPLE))
@output_schema(PandasParameterType(SAMPLE[["i", "t"]]))
def run(data):
    return {"columns": list(data.columns), "types": [str(t) for t in data.dtypes], "rows": [[repr(v) for v in row] for row in data.values.tolist()]}
