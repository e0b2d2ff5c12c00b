"""MLflow models without any code of the user.

load(folder) reads a model with the MLflow of the interpreter that runs this, of
whatever version (1.30 and newer), and returns a Model. Model.handle answers two
protocols on both of the paths /score and /invocations:

- Azure's: {"input_data": ..., "params": ...}, answered bare, with the statuses
  and messages of the Azure inference server;
- MLflow's own: what mlflow.pyfunc.scoring_server makes of the request, down to
  its errors, since it is that module that is asked.

A body that names input_data is Azure's; one with a field of MLflow's is
MLflow's; what is neither is refused in the manner of the path it came on.
/ping, /health, /version, /docs and what does not exist are answered by MLflow's
own application.
"""

import asyncio
import base64
import inspect
import io
import json
import logging
import os
import time
import traceback
import urllib.parse

import lapis_settings
import lapis_swagger

logger = logging.getLogger("azmlinfsrv")
quiet = logging.getLogger("azmlinfsrv.mlflow")

JSON = ("Content-Type", "application/json")

# The fields that make a JSON object a request in MLflow's form.
MLFLOW_FIELDS = ("dataframe_split", "dataframe_records", "instances", "inputs", "messages", "prompt", "input")

# Flavours whose models take text and not arrays.
TEXT_FLAVORS = ("transformers", "langchain", "openai")


class ModelError(Exception):
    """The folder holds no model that can be loaded; the text says why."""


def find(folder):
    """Return the folder with the file MLmodel: the given one, or the only one in it that has it."""
    if os.path.isfile(os.path.join(folder, "MLmodel")):
        return folder
    inner = []
    if os.path.isdir(folder):
        inner = [e.path for e in os.scandir(folder) if e.is_dir() and os.path.isfile(os.path.join(e.path, "MLmodel"))]
    if len(inner) == 1:
        return inner[0]
    what = "has no file MLmodel" if not inner else "has several folders with a file MLmodel"
    raise ModelError(f"{folder} is not an MLflow model: it {what}. Register the folder that mlflow.<flavor>.save_model wrote.")


def modules(folder):
    """Return what the model of a folder will need to be imported, and nothing of the model itself.

    It is imported before processes are forked off; that an import fails is told
    by load.
    """
    return ["pandas", "mlflow.pyfunc", "mlflow.pyfunc.scoring_server", *flavor_modules(folder)]


def flavor_modules(folder):
    """Return the modules that the model's flavours are loaded with, as its MLmodel names them."""
    try:
        import yaml

        with open(os.path.join(find(folder), "MLmodel"), encoding="utf-8") as f:
            flavors = yaml.safe_load(f)["flavors"]
        modules = [flavors["python_function"]["loader_module"]]
        if flavors.get("sklearn", {}).get("serialization_format") == "skops":
            modules.append("skops.io")  # takes seconds: it looks at all that scikit-learn has
        known = {"sklearn": "sklearn.ensemble", "lightgbm": "lightgbm", "xgboost": "xgboost", "onnx": "onnxruntime", "pytorch": "torch"}
        return modules + [module for flavor, module in known.items() if flavor in flavors]
    except Exception:
        return []


def prepare():
    """Have MLflow find out which package each module is of.

    It does so when it loads its first model, takes a second or two for it, and
    keeps what it found.
    """
    from mlflow.utils import requirements_utils

    requirements_utils._init_modules_to_packages_map()


def load(folder):
    """Return the Model in a folder. Raises ModelError, or what MLflow raises."""
    return Model(find(folder))


class Model:
    """A loaded model and its two protocols."""

    def __init__(self, folder):
        self.folder = folder
        try:
            import mlflow
            from mlflow.pyfunc import scoring_server
        except ModuleNotFoundError as e:
            if e.name != "mlflow":
                raise
            raise ModelError("No module named 'mlflow': the environment of the model lacks it; add mlflow to its requirements.") from e
        self.mlflow = mlflow
        self.server = scoring_server
        os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"  # MLflow's own name for it
        # Newer versions read the model's configuration from their own variable.
        loader = getattr(scoring_server, "load_model_with_mlflow_config", None) or mlflow.pyfunc.load_model
        self.model = loader(folder)
        self.metadata = self.model.metadata
        self.input_schema = self.metadata.get_input_schema()
        self.has_params = "params" in inspect.signature(self.model.predict).parameters
        self.collectors = collectors()
        self.samples = Samples(folder, self.metadata)
        self.documents = None  # made when they are first asked for
        self._app = None

    # What is asked.

    def handle(self, method, target, headers, body):
        """Answer one request with (status, [(name, value)], body).

        The target is path and query; headers is a mapping whose keys are lower
        case; the body is bytes.
        """
        path, _, query = target.partition("?")
        if path == "/invocations" and method == "POST":
            if b'"input_data"' in body and self.is_azure(headers, body):
                return self.score(method, query, headers, body)
            return self.invoke(headers, body)
        if path == "/score":
            if method == "POST" and self.is_mlflow(headers, body):
                return self.invoke(headers, body)
            return self.score(method, query, headers, body)
        if path == "/" and method in ("GET", "HEAD"):
            return 200, [("Content-Type", "text/html; charset=utf-8")], b"Healthy"
        if path == "/swagger.json" and method in ("GET", "HEAD"):
            return self.document(query)
        return self.ask(method, path, query, headers, body)

    @staticmethod
    def is_azure(headers, body):
        fields = members(headers, body)
        return fields is not None and "input_data" in fields and not any(f in fields for f in MLFLOW_FIELDS)

    @staticmethod
    def is_mlflow(headers, body):
        mime = (headers.get("content-type") or "").partition(";")[0].strip().lower()
        if mime in ("text/csv", "application/vnd.apache.parquet"):
            return True
        if not any(b'"%s"' % f.encode() in body for f in MLFLOW_FIELDS):
            return False
        fields = members(headers, body)
        return fields is not None and "input_data" not in fields and any(f in fields for f in MLFLOW_FIELDS)

    def document(self, query):
        """Answer with the swagger document of Azure's protocol."""
        if self.documents is None:
            self.documents = Documents(lapis_settings.Settings(), self.samples)
        status, found = self.documents.find(dict(urllib.parse.parse_qsl(query, keep_blank_values=True)[::-1]).get("version", "2"))
        if status != 200:
            return refusal(status, found)
        return 200, [JSON, ("x-ms-run-function-failed", "False")], json.dumps(found).encode()

    # MLflow's protocol.

    def invoke(self, headers, body):
        """Answer as `mlflow models serve` answers POST /invocations."""
        invocations = getattr(self.server, "invocations", None)
        if invocations is None:
            return self.ask("POST", "/invocations", "", headers, body)
        content_type = headers.get("content-type")
        if not content_type:
            types = getattr(self.server, "CONTENT_TYPES", ["text/csv", "application/json"])
            text = f"This predictor only supports the following content types: Types: {types}. Got 'None'."
            return 415, [("Content-Type", "text/plain; charset=utf-8")], text.encode()
        try:
            result = invocations(body, content_type, self.model, self.input_schema)
        except self.mlflow.exceptions.MlflowException as e:
            trace = e.json_kwargs.get("stack_trace")
            if trace:
                logger.error("Encountered Exception: %s", trace)
            return e.get_http_status_code(), [JSON], e.serialize_as_json().encode()
        except Exception:
            # What MLflow does not catch, such as a result that is no JSON.
            logger.error("Encountered Exception: %s", traceback.format_exc())
            return 500, [("Content-Type", "text/plain; charset=utf-8")], b"Internal Server Error"
        response, status, mime = result.response, result.status, result.mimetype
        if mime.startswith("text/") and "charset=" not in mime:
            mime += "; charset=utf-8"
        return status, [("Content-Type", mime)], response if isinstance(response, bytes) else response.encode()

    def ask(self, method, path, query, headers, body):
        """Let MLflow's own application answer."""
        if self._app is None:
            self._app = self.application()
        if self._app is not False:
            try:
                return self._app(method, path, query, headers, body)
            except Exception:
                logger.error("Encountered Exception: %s", traceback.format_exc())
                return 500, [("Content-Type", "text/plain; charset=utf-8")], b"Internal Server Error"
        routes = {"/ping": b"\n", "/health": b"\n", "/version": self.mlflow.__version__.encode()}
        if path not in routes and path != "/invocations":
            return 404, [JSON], b'{"detail":"Not Found"}'
        if path == "/invocations" or method != "GET":
            return 405, [("Allow", "POST" if path == "/invocations" else "GET"), JSON], b'{"detail":"Method Not Allowed"}'
        return 200, [JSON], routes[path]

    def application(self):
        """Return a function that calls MLflow's application, or False when what it is built with is not installed."""
        try:
            app = self.server.init(self.model)
        except ImportError:
            return False
        if hasattr(app, "wsgi_app"):
            return lambda *request: through_wsgi(app, *request)
        return lambda *request: through_asgi(app, *request)

    # Azure's protocol.

    def score(self, method, query, headers, body):
        """Answer as the Azure inference server does with the script that Azure gives an MLflow model."""
        if method == "OPTIONS":
            return 200, [("Content-Type", "text/html; charset=utf-8"), ("x-ms-run-function-failed", "False")], b""
        if method == "GET":
            fields = parameters(query)
        elif method == "POST":
            mime = (headers.get("content-type") or "").partition(";")[0].strip().lower()
            if mime != "application/json" and not (mime.startswith("application/") and mime.endswith("+json")):
                return refusal(415, "Expects Content-Type to be application/json")
            try:
                fields = json.loads(body)
            except json.JSONDecodeError as e:
                if body:
                    return refusal(400, f"POST body could not be decoded as JSON: {e}")
                return refusal(400, "POST body is empty. Expecting a JSON dictionary.")
            except UnicodeDecodeError:
                return self.broken()
            if not isinstance(fields, dict):
                return refusal(400, "POST body should be a JSON dictionary.")
        elif method == "HEAD":
            return refusal(405, "Method not allowed")
        else:
            return refusal(405, "The method is not allowed for the requested URL.")
        if "input_data" not in fields:
            return refusal(400, "A value is not provided for the 'input_data' parameter.")
        begun = time.perf_counter()
        try:
            result = self.run(fields["input_data"], fields.get("params"))
        except Exception:
            logger.error("Encountered Exception: %s", traceback.format_exc())
            return refusal(500, "An unexpected error occurred in scoring script. Check the logs for more info.", failed="True")
        took = (time.perf_counter() - begun) * 1000
        try:
            text = self.dump(result)
        except Exception:
            return self.broken()
        return 200, [JSON, ("x-ms-run-function-failed", "False"), ("x-ms-run-fn-exec-ms", f"{took:.3f}")], text.encode()

    def broken(self):
        logger.error("Encountered Exception: %s", traceback.format_exc())
        return refusal(500, "An unexpected internal error occurred. Check the logs for more info.")

    def dump(self, result):
        if result is None:
            return "{}"
        try:
            return json.dumps(result)
        except TypeError:
            # Arrays within a dict, as ONNX models answer, are written as MLflow writes them.
            return json.dumps(result, cls=self.server.NumpyEncoder)

    def run(self, data, params):
        """Return what the model predicts for the value of input_data, as something that is JSON."""
        samples = self.samples
        data = samples.input.parse(data)
        if params:
            params = samples.params.parse(params)
        if params is None and samples.text == "transformers" and isinstance(data, dict) and "parameters" in data:
            params = data.pop("parameters")
            if list(data) == ["input_string"]:
                data = data["input_string"]
        if not samples.is_parsed(data):
            data = samples.guess(data)
        context = self.collect("model_inputs", data, None)
        result = self.model.predict(data, params=params) if self.has_params else self.model.predict(data)
        self.collect("model_outputs", result, context)
        return self.server._get_jsonable_obj(result, pandas_orient="records")

    def collect(self, name, data, context):
        """Hand a table to data collection, which never fails a request."""
        collector = self.collectors.get(name)
        if collector is None:
            return context
        try:
            import pandas as pd

            if not isinstance(data, pd.DataFrame):
                data = pd.DataFrame(data)
            return collector.collect(data, context) if context is not None else collector.collect(data)
        except Exception as e:
            logger.error("Error collecting %s: %s", name, e)
            return context


def collectors():
    """Return the collections that an MLflow model fills where data collection is on."""
    if not os.environ.get("ENABLE_MDC"):
        return {}
    try:
        from azureml.ai.monitoring import Collector

        return {name: Collector(name=name) for name in ("model_inputs", "model_outputs")}
    except Exception as e:
        logger.error("Error initializing model_inputs collector and model_outputs collector. %s", e)
        return {}


def refusal(status, message, failed="False"):
    return status, [JSON, ("x-ms-run-function-failed", failed)], json.dumps({"message": message}).encode()


def members(headers, body):
    """Return the members of a body that is a JSON object, or None."""
    try:
        value = json.loads(body)
    except ValueError:
        return None
    return value if isinstance(value, dict) else None


def parameters(query):
    """Return the parameters of a query, each read as JSON where it is; those given more than once are lists."""
    given = {}
    for name, value in urllib.parse.parse_qsl(query, keep_blank_values=True):
        try:
            value = json.loads(value)
        except ValueError:
            pass
        given.setdefault(name, []).append(value)
    return {name: values[0] if len(values) == 1 else values for name, values in given.items()}


# What the value of input_data is turned into, and how the swagger document
# describes it. Each kind has parse(value), which raises on what does not fit,
# and schema(), with an example in it.


class Anything:
    def parse(self, value):
        return value

    def schema(self):
        return {"type": "object", "example": {}}


class Table:
    """A pandas DataFrame with the column types of a sample."""

    def __init__(self, sample, orient="split"):
        self.sample = sample
        self.orient = orient

    def parse(self, value):
        import pandas as pd

        if not isinstance(value, (list, dict)):
            raise TypeError(f"input_data is {type(value).__name__}, and a table in pandas' split form is needed: columns, data, and perhaps index")
        frame = pd.read_json(io.StringIO(json.dumps(value)), orient=self.orient, dtype=False)
        types = self.sample.dtypes.to_dict()
        for name in frame.columns:
            if str(types.get(name)).startswith("timedelta"):
                frame[name] = pd.to_timedelta(frame[name])
        return frame.astype({name: types.get(name, object) for name in frame.columns})

    def schema(self):
        value = json.loads(self.sample.to_json(orient=self.orient, date_format="iso"))
        schema = described(value)
        if self.orient == "records":
            for name, kind in self.sample.dtypes.items():
                kind = str(kind)
                form = "date-time" if kind.startswith("datetime") else "timedelta" if kind.startswith("timedelta") else None
                if form and str(name) in schema["items"].get("properties", {}):
                    schema["items"]["properties"][str(name)]["format"] = form
        schema["format"] = f"pandas.DataFrame:{self.orient}"
        return schema


class Tensor:
    """A numpy array with the element type of a sample."""

    def __init__(self, sample):
        self.sample = sample

    def parse(self, value):
        import numpy as np

        if isinstance(value, np.ndarray):
            return value
        if not isinstance(value, list):
            raise TypeError(f"input_data is {type(value).__name__}, and an array is needed")
        if self.sample.dtype.kind == "M":
            value = np.array(value, dtype="datetime64")
        return np.array(value, dtype=self.sample.dtype)

    def schema(self):
        items = element(self.sample.dtype)
        schema = {"type": "array", "items": dict(items)}
        for _ in range(self.sample.ndim - 1):
            schema = {"type": "array", "items": schema}
        schema["example"] = [written(v, items) for v in self.sample] if self.sample.ndim else []
        schema["format"] = "numpy.ndarray"
        return schema


class Named:
    """A dict of arrays."""

    def __init__(self, sample):
        self.kinds = {name: Tensor(value) for name, value in sample.items()}

    def parse(self, value):
        if not isinstance(value, dict):
            raise TypeError(f"input_data is {type(value).__name__}, and an object with one array for each input is needed")
        return {name: self.kinds[name].parse(v) if name in self.kinds else v for name, v in value.items()}

    def schema(self):
        return nested({name: kind.schema() for name, kind in self.kinds.items()})


class Plain:
    """A value of Python's own types, like a sample."""

    def __init__(self, sample):
        self.sample = sample

    def parse(self, value):
        if not isinstance(value, type(self.sample)):
            raise TypeError(f"{type(value).__name__} is given, and {type(self.sample).__name__} is needed")
        return value

    def schema(self):
        return described(self.sample)


def nested(schemas):
    """Describe an object by the descriptions of its members."""
    examples = {name: schema.pop("example") for name, schema in schemas.items()}
    return {"type": "object", "required": list(schemas), "properties": schemas, "example": examples}


def described(value):
    """Describe a value of JSON."""
    if isinstance(value, bool):
        return {"type": "boolean", "example": value}
    if isinstance(value, int):
        return {"type": "integer", "format": "int64", "example": value}
    if isinstance(value, float):
        return {"type": "number", "format": "double", "example": value}
    if isinstance(value, str):
        return {"type": "string", "example": value}
    if isinstance(value, (list, tuple)):
        items, examples = {"type": "object"}, []
        for v in value:
            items = described(v)
            examples.append(items.pop("example"))
        return {"type": "array", "items": items, "example": examples}
    if isinstance(value, dict):
        return nested({name: described(v) for name, v in value.items()})
    return {"type": "object", "example": value}


def element(dtype):
    """Describe an element of an array."""
    kind, name = dtype.kind, dtype.name
    if kind in "iu":
        return {"type": "integer", "format": name}
    if kind == "f":
        return {"type": "number", "format": "double" if name == "float64" else "float"}
    if kind == "b":
        return {"type": "boolean"}
    if kind == "M":
        return {"type": "string", "format": "date-time"}
    if kind == "m":
        return {"type": "string", "format": "timedelta"}
    if kind == "U":
        return {"type": "string"}
    if kind in "SV":
        return {"type": "string", "format": "binary"}
    return {"type": "object"}


def written(value, items):
    """Return an element of an array, or an array of them, as the example writes it."""
    if getattr(value, "ndim", 0):
        return [written(v, items) for v in value]
    kind, form = items["type"], items.get("format")
    if kind == "integer":
        return int(value)
    if kind == "number":
        return float(value)
    if form == "binary":
        return base64.b64encode(value).decode()
    return str(value)


class Samples:
    """What a model tells of its inputs and outputs: by its example, else by its signature."""

    def __init__(self, folder, metadata):
        flavors = getattr(metadata, "flavors", None) or {}
        self.text = next((f for f in TEXT_FLAVORS if f in flavors), None)
        self.raw = "hftransformersv2" in flavors
        self.info = getattr(metadata, "saved_input_example_info", None) or {}
        signature = getattr(metadata, "signature", None)
        example = attempt("the model's input example", lambda: self.example(folder))
        if signature is not None and signature.inputs is not None and (example is None or self.text == "transformers"):
            example = attempt("the model's signature", lambda: self.of_inputs(signature.inputs)) if example is None or self.takes_text(signature.inputs) else example
        self.input = attempt("the model's input", lambda: self.kind(example)) or Anything()
        output = None
        if signature is not None and signature.outputs is not None:
            output = attempt("the model's output", lambda: tensors(signature.outputs) if signature.outputs.is_tensor_spec() else table(signature.outputs))
        self.output = attempt("the model's output", lambda: self.kind(output, orient="records")) or Anything()
        declared = getattr(signature, "params", None)
        self.params = Plain(defaults(declared)) if declared is not None else Anything()

    def kind(self, sample, orient="split"):
        import numpy as np
        import pandas as pd

        if isinstance(sample, np.ndarray):
            return Tensor(sample)
        if isinstance(sample, pd.DataFrame):
            return Table(sample, orient)
        if isinstance(sample, dict) and self.text != "transformers":
            return Named(sample) if all(isinstance(v, np.ndarray) for v in sample.values()) else Anything()
        if isinstance(sample, (dict, list)) and self.text == "transformers":
            return Plain(sample)
        return Anything()

    def example(self, folder):
        import numpy as np
        import pandas as pd

        if not self.info.get("artifact_path"):
            return None
        with open(os.path.join(folder, self.info["artifact_path"]), encoding="utf-8") as f:
            value = json.load(f)
        if self.info.get("type") == "dataframe":
            orient = "split" if "columns" in value else "values"
            return pd.read_json(io.StringIO(json.dumps(value)), orient=orient, dtype=False)
        if self.info.get("type") == "ndarray":
            value = value["inputs"]
            if isinstance(value, dict):
                return {name: np.asarray(v) for name, v in value.items()}
            return np.asarray(value)
        return value

    def takes_text(self, inputs):
        if self.text != "transformers":
            return False
        first = inputs.inputs[0]
        return type(first).__name__ == "ColSpec" and (first.name is not None or len(inputs.inputs) == 1 and str(first.type) == "DataType.string")

    def of_inputs(self, inputs):
        if self.takes_text(inputs):
            values = {"boolean": True, "string": "sample string", "integer": 42, "long": 42, "float": 0.15, "double": 0.15}
            if inputs.inputs[0].name is None:
                return ["sample string"]
            return {spec.name: values.get(spec.type.name) for spec in inputs.inputs}
        return tensors(inputs) if inputs.is_tensor_spec() else table(inputs)

    @staticmethod
    def is_parsed(data):
        import numpy as np
        import pandas as pd

        if isinstance(data, dict):
            return bool(data) and isinstance(next(iter(data.values())), np.ndarray)
        return isinstance(data, (np.ndarray, pd.DataFrame))

    def guess(self, value):
        """Return what a model without example and signature is given for a value of JSON."""
        import numpy as np
        import pandas as pd

        if isinstance(value, str):
            try:
                value = json.loads(value)
            except ValueError:
                if not self.text:
                    raise
        if isinstance(value, dict) and "input_data" in value:
            value = value["input_data"]
        if self.raw:
            return value
        if isinstance(value, dict) and {"columns", "index", "data"} <= value.keys():
            return pd.read_json(io.StringIO(json.dumps(value)), orient="split", dtype=False)
        if self.text:
            if isinstance(value, list) and not all(isinstance(v, str) for v in value) and not all(isinstance(v, dict) for v in value):
                return np.asarray(value)
            if isinstance(value, dict) and not all(is_text(v) for v in value.values()):
                return {name: np.asarray(v) for name, v in value.items()}
            return value
        if isinstance(value, list):
            return np.asarray(value)
        return {name: np.asarray(v) for name, v in value.items()}

    def schemas(self):
        """Return how the swagger document describes requests and replies."""
        properties = {"input_data": self.input.schema(), "params": self.params.schema()}
        example = {name: schema.pop("example") for name, schema in properties.items()}
        return {"type": "object", "properties": properties, "example": example}, self.output.schema()


def is_text(value):
    return isinstance(value, str) or isinstance(value, list) and all(isinstance(v, str) for v in value)


def attempt(what, work):
    """Return what work returns, or None when it raises: a model is served also where its description is odd."""
    try:
        return work()
    except Exception as e:
        quiet.warning("%s could not be read, and is left out of the description: %s", what, e)
        return None


def tensors(schema):
    """Return arrays of zeros like the tensors of a signature."""
    import numpy as np

    def zeros(spec):
        shape = list(spec.shape)
        if shape and shape[0] == -1:
            shape[0] = 1
        return np.zeros(tuple(shape), dtype=spec.type)

    if not schema.has_input_names():
        return zeros(schema.inputs[0])
    return {spec.name: zeros(spec) for spec in schema.inputs}


def table(schema):
    """Return an empty table like the columns of a signature."""
    import pandas as pd

    names = schema.input_names() if hasattr(schema, "input_names") else schema.column_names()
    return pd.DataFrame(columns=names).astype(dict(zip(names, schema.pandas_types())))


def defaults(declared):
    """Return the params of a signature with their defaults."""
    values = {"boolean": True, "string": "sample string", "integer": 42, "long": 42, "float": 0.15, "double": 0.15}
    given = {}
    for param in declared.params:
        value = param.default if param.default is not None else values.get(getattr(param.dtype, "name", ""))
        if value is not None:
            given[param.name] = value
    return given


class Documents(lapis_swagger.Documents):
    """The swagger documents of a model, by its Samples."""

    def schemas(self, version, others, samples):
        taken, given = samples.schemas()
        if version == "2" and not (alike(taken["example"]["input_data"]) and alike(given.get("example"))):
            return None
        return taken, given


def alike(example):
    """Tell whether each list of an example has elements of one type, which is all that version 2 can say."""
    if isinstance(example, list):
        return len({type(v) for v in example}) < 2 and all(alike(v) for v in example if isinstance(v, list))
    if isinstance(example, dict):
        return all(alike(v) for v in example.values())
    return True


# MLflow's own application, asked in this process.


def through_asgi(app, method, path, query, headers, body):
    sent = {"status": 500, "headers": [], "body": []}

    async def receive():
        return {"type": "http.request", "body": body, "more_body": False}

    async def send(message):
        if message["type"] == "http.response.start":
            sent["status"], sent["headers"] = message["status"], message.get("headers", [])
        elif message["type"] == "http.response.body":
            sent["body"].append(message.get("body", b""))

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "scheme": "http", "method": method,
        "path": urllib.parse.unquote(path), "raw_path": path.encode(), "root_path": "", "query_string": query.encode(),
        "headers": [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers.items()],
        "client": ("127.0.0.1", 0), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    asyncio.run(app(scope, receive, send))
    given = [(titled(name.decode("latin-1")), value.decode("latin-1")) for name, value in sent["headers"]]
    return sent["status"], [(n, v) for n, v in given if n != "Content-Length"], b"".join(sent["body"])


def through_wsgi(app, method, path, query, headers, body):
    environ = {
        "REQUEST_METHOD": method, "SCRIPT_NAME": "", "PATH_INFO": urllib.parse.unquote(path), "QUERY_STRING": query,
        "SERVER_NAME": "127.0.0.1", "SERVER_PORT": "80", "SERVER_PROTOCOL": "HTTP/1.1", "CONTENT_LENGTH": str(len(body)),
        "wsgi.version": (1, 0), "wsgi.url_scheme": "http", "wsgi.input": io.BytesIO(body), "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False, "wsgi.multiprocess": True, "wsgi.run_once": False,
    }  # fmt: skip
    for name, value in headers.items():
        key = name.upper().replace("-", "_")
        environ[key if key == "CONTENT_TYPE" else "HTTP_" + key] = value
    started = {}

    def start_response(status, response_headers, exc_info=None):
        started["status"], started["headers"] = int(status.split(" ", 1)[0]), response_headers

    pieces = app.wsgi_app(environ, start_response)
    try:
        answer = b"".join(pieces)
    finally:
        if hasattr(pieces, "close"):
            pieces.close()
    return started["status"], [(n, v) for n, v in started["headers"] if n.lower() != "content-length"], answer


def titled(name):
    return "-".join(part.capitalize() for part in name.split("-"))
