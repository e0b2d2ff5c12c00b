"""Requests, drawn by a seeded generator: those that each script and model is
made for, and those that break a rule."""

import dataclasses
import json
import urllib.parse

import models


@dataclasses.dataclass
class Case:
    method: str
    target: str
    headers: list  # of (name, value)
    body: bytes

    def __str__(self):
        return f"{self.method} {self.target} {self.headers} {self.body[:300]!r}"


JSON = "application/json"
TYPES = [JSON, JSON, JSON, "application/json; charset=utf-8", "application/vnd.api+json", "text/json", "text/plain", "application/octet-stream", "text/csv", None]


def pick(rng, weighted):
    """Draw one of {choice: weight}."""
    return rng.choices(list(weighted), weighted.values())[0]


def value(rng, depth=3):
    """Draw any value of JSON."""
    kind = rng.randrange(9 if depth else 6)
    if kind == 0:
        return None
    if kind == 1:
        return rng.random() < 0.5
    if kind == 2:
        return rng.choice([0, 1, -1, 7, 2**31, 2**53 + 1, -(2**63), 10**25])
    if kind == 3:
        return rng.choice([0.0, -0.0, 1.5, 1e300, 1e-300, 0.1, float("nan"), float("inf"), 12345.678])
    if kind <= 5:
        return rng.choice(["", "a", "1", "2.5", "true", "null", "\u2603", "\U0001f600", "a\nb\"\\", " ", "2024-01-02", "YWI="])
    if kind == 6:
        return [value(rng, depth - 1) for _ in range(rng.randrange(4))]
    return {rng.choice(["a", "b", "data", "what", "x", "", "\u00e9"]): value(rng, depth - 1) for _ in range(rng.randrange(4))}


def encoded(rng, what):
    """Write a value as bytes: as JSON in one of its encodings, or broken."""
    text = json.dumps(what, ensure_ascii=rng.random() < 0.5)
    kind = rng.random()
    if kind < 0.85:
        return text.encode("utf-8", "surrogatepass")
    if kind < 0.88:
        return text.encode("utf-16")
    if kind < 0.9:
        return b"\xef\xbb\xbf" + text.encode()
    if kind < 0.93:
        return text.encode()[: rng.randrange(len(text) + 1)]
    if kind < 0.96:
        return text.encode() + rng.choice([b"x", b"\n", b"\xff", b"{}", b"\x00"])
    return rng.choice([b"", b" ", b"\xff\xfe", b"{", b"nul", b'"', b"'a'", b"[1,]", b"\x80abc", b"1 2", b"NaN"])


def drawn_headers(rng, content_type=JSON, plain=0.6):
    """Draw headers, the ones that the contract names among them."""
    headers = [("User-Agent", "parity"), ("Accept", "*/*")]
    if content_type:
        headers.append((rng.choice(["Content-Type", "Content-Type", "content-type"]), content_type))
    if rng.random() < plain:
        return headers
    ids = ["abc", "3f2504e0-4f89-11d3-9a0c-0305e82c3301", "x" * 100, "x" * 101, "", "a b", "\u00e9"]
    for name in ("x-request-id", "x-ms-client-request-id", "x-ms-request-id", "TraceId", "X-Own-Thing", "X-Many", "Origin", "Accept-Encoding"):
        if rng.random() < 0.25:
            headers.append((name, rng.choice(ids)))
            if name == "X-Many":
                headers.append((name, "second"))
    return headers


def aside(rng):
    """Draw a request that is not for the script: health, swagger, what does not exist."""
    target = pick(rng, {
        "/": 3, "/swagger.json": 4, "/swagger.json?version=2": 1, "/swagger.json?version=2.0": 1, "/swagger.json?version=3": 2, "/swagger.json?version=3.0": 1,
        "/swagger.json?version=3.1": 2, "/swagger.json?version=9": 1, "/swagger.json?version=": 1, "/swagger.json?version=3&version=2": 1, "/score/": 1, "/SCORE": 1,
        "/health": 1, "/healthz": 1, "/ping": 1, "/favicon.ico": 1, "/swagger": 1, "/score/x": 1,
    })  # fmt: skip
    return Case(pick(rng, {"GET": 8, "POST": 1, "PUT": 1, "DELETE": 1, "OPTIONS": 1, "HEAD": 1}), target, drawn_headers(rng, None), b"")


def scored(rng, body, content_type=None, query=""):
    """Draw a request for /score with a body."""
    method = pick(rng, {"POST": 40, "GET": 2, "OPTIONS": 1, "HEAD": 1, "PUT": 1, "DELETE": 1, "PATCH": 1})
    return Case(method, "/score" + query, drawn_headers(rng, content_type or rng.choice(TYPES)), body)


def query(rng):
    """Draw a query, some of whose values are JSON."""
    pairs = []
    for _ in range(rng.randrange(5)):
        text = rng.choice(["1", "[1,2]", "a", "null", "", "{\"a\":1}", "1.5", "true", "\u00e9", "a b", "NaN"])
        pairs.append((rng.choice(["a", "b", "data", "what", "c", "text", "number"]), text))
    return "?" + urllib.parse.urlencode(pairs)


def named_result(names):
    def draw(rng):
        return scored(rng, json.dumps({"what": rng.choice(names)}).encode(), JSON)

    return draw


def echo(rng):
    if rng.random() < 0.2:
        return Case("GET", "/score" + query(rng), drawn_headers(rng, None), b"")
    if rng.random() < 0.1:
        return Case("POST", "/score", drawn_headers(rng, "application/x-www-form-urlencoded"), b"a=1&b=2")
    return scored(rng, encoded(rng, value(rng)), query=query(rng) if rng.random() < 0.1 else "")


def rawhttp(rng):
    kind = rng.random()
    if kind < 0.1:
        body = b'--B\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--B\r\nContent-Disposition: form-data; name="f"; filename="x"\r\n\r\nbytes\xff\r\n--B--\r\n'
        return Case("POST", "/score?what=form", drawn_headers(rng, "multipart/form-data; boundary=B"), body)
    if kind < 0.2:
        return Case("POST", "/score?what=form", drawn_headers(rng, "application/x-www-form-urlencoded"), b"a=1&a=2&b=%C3%A9")
    method = pick(rng, {"POST": 6, "GET": 3, "OPTIONS": 1, "HEAD": 1, "PUT": 1})
    target = rng.choice(["/score", "/score" + query(rng), "/score?what=" + rng.choice(["none", "text", "500", "json", "raise"])])
    return Case(method, target, drawn_headers(rng, rng.choice(TYPES)), encoded(rng, value(rng)) if method in ("POST", "PUT") else b"")


def schema(fields, often=0.75):
    """Draw a JSON object with the named fields, each as its function draws it, or something near to it."""

    def draw(rng):
        if rng.random() < 0.08:
            return Case("GET", "/score" + query(rng), drawn_headers(rng, None), b"")
        body = {name: (make(rng) if rng.random() < often else value(rng)) for name, make in fields.items() if rng.random() < 0.96}
        if rng.random() < 0.1:
            body["unknown"] = value(rng)
        return scored(rng, encoded(rng, body if rng.random() < 0.97 else value(rng)), JSON if rng.random() < 0.9 else None)

    return draw


def rows(width):
    return lambda rng: [[rng.choice([1, 2.5, -3, 1e9]) for _ in range(width + (rng.random() < 0.1))] for _ in range(rng.randrange(4))]


def frame_rows(rng):
    def row():
        r = {"i": rng.choice([1, 1.7, "3", True]), "f": rng.choice([1.5, 2, "2.5", float("nan")]), "s": rng.choice(["a", 1, None]), "b": rng.choice([True, False, 1]), "t": rng.choice(["2024-01-02T03:04:05", 1704164645000, "soon"])}
        if rng.random() < 0.1:
            del r[rng.choice(list(r))]
        if rng.random() < 0.1:
            r["z"] = 1
        items = list(r.items())
        if rng.random() < 0.2:
            rng.shuffle(items)
        return dict(items)

    return [row() for _ in range(rng.randrange(4))]


SCRIPTS = {
    "echo": echo,
    "headers": echo,
    "named": echo,
    "rawhttp": rawhttp,
    "types": named_result(
        "none text snow number big tuple nan infinities keys nested empty list true zero emptytext bytes array int64 float32 float64 bool_ frame set date decimal object function tuplekeys status lists loop unknown".split()
    ),
    "raises": named_result("value exit exit3 interrupt timeout assert memory deep stop generator count count unknown".split()),
    "responses": named_result(
        "none text json jsontext 404 500 503 headers jsonheaders failed ownflag bytes flask flask201 flask500 flask204 flask304 redirect jsonify make stream events cookies cached 599".split()
    ),
    "numpy": schema({"data": rows(3)}),
    "pandas": schema({"data": frame_rows}),
    "standard": schema({
        "text": lambda rng: "t", "number": lambda rng: rng.choice([1, 1.5]), "whole": lambda rng: 3, "flags": lambda rng: [True, False], "thing": lambda rng: {"a": 1, "b": []},
        "raw": lambda rng: "YWI=", "when": lambda rng: rng.choice(["2024-01-02", "2024-01-02T03:04:05Z", "noon"]),
    }, often=0.93),
    "nested": schema({"inputs": lambda rng: {"x": rows(1)(rng), "name": "n"}, "extra": lambda rng: ["a"]}),
}  # fmt: skip


def for_script(name, rng):
    return aside(rng) if rng.random() < 0.15 else SCRIPTS[name](rng)


# Requests for MLflow models.

CELLS = [1, 0, 2.5, -1e9, "3", "x", None, True, float("nan"), "YWI=", "2024-01-02T03:04:05", [1], {"a": 1}, 2**40]

COLUMNS = {
    "forest": models.COLUMNS, "linear": models.COLUMNS, "bare": ["a", "b"], "lightgbm": [c.replace(" ", "_") for c in models.COLUMNS], "onnx": ["X"],
    "typed": ["a " + k for k in ["integer", "long", "float", "double", "string", "boolean", "binary", "datetime"]], "optional": ["x", "y", "s"], "params": ["x"],
    "tensor": ["0", "1", "2"], "integers": ["0", "1"], "named": ["a", "b"], "untyped": ["p", "q"], "text": ["0"], "replies": ["what"],
}

# Of the models that are scored without Python.
NATIVE_COLUMNS = {
    "onnx": ["X"], "onnx_bare": ["a", "b", "c"], "onnx_columns": ["a", "b"], "onnx_matrix": ["a", "b", "c"], "onnx_named": ["a", "b", "s"], "onnx_unnamed": ["0", "1", "2"],
    "boosted": models.COLUMNS, "booster": models.COLUMNS, "boosted_bare": models.COLUMNS, "boosted_mixed": [*models.KINDS, "may"],
    "light": COLUMNS["lightgbm"], "light_bare": COLUMNS["lightgbm"], "light_mixed": [*models.KINDS, "may"],
}
COLUMNS_OF = {**COLUMNS, **NATIVE_COLUMNS}  # fmt: skip

FITTING = {
    "typed": lambda rng: [rng.choice(c) for c in ([1, 2.0, "3"], [2**40, 1, 1.5], [1.5, 1], [2.5, None], ["a", 1], [True, 1], ["YWI=", "?"], ["2024-01-02", 1704164645, "x"])],
    "optional": lambda rng: [rng.choice(c) for c in ([1.5, 1, None], [2.5, None], ["a", None])],
    "replies": lambda rng: [rng.choice(list(models.REPLIES) + ["unknown"])],
    "text": lambda rng: [rng.choice(["a", "b", 1])],
    "onnx_columns": lambda rng: [rng.choice([1.5, 2, float("nan")]), rng.choice([1, 2**40, -3])],
    "onnx_named": lambda rng: [rng.choice([1.5, 2, float("nan")]), rng.choice([1, 2**40, -3]), rng.choice(["a", "\u2603", ""])],
    "boosted_mixed": lambda rng: mixed_row(rng),
    "light_mixed": lambda rng: mixed_row(rng),
    "named": lambda rng: [[rng.choice([1, 2.5]), 2], rng.choice([1, 5.5, "x"])],
}  # fmt: skip


def mixed_row(rng):
    return [rng.choice(c) for c in ([1.5, 2, None, float("nan")], [0.1, 3], [7, 2**40, 3.0], [4, 5], [True, False, 1], [0.5, None, -1])]


def row(name, rng):
    if name in FITTING and rng.random() < 0.85:
        return FITTING[name](rng)
    width = 4 if name == "onnx" else len(COLUMNS_OF[name])
    numbers = [0.5, 1, 2, 5.1, 3.5, 1.4, 0.2]
    return [rng.choice(numbers) if rng.random() < 0.95 else rng.choice(CELLS) for _ in range(width)]


def table(name, rng):
    """Draw columns and rows, most of which fit."""
    columns = list(COLUMNS_OF[name])
    data = [row(name, rng) for _ in range(rng.randrange(1, 4))]
    if name == "onnx":
        data = [[r] if rng.random() < 0.5 else r for r in data]
    if rng.random() < 0.06 and len(columns) > 1:
        at = rng.randrange(len(columns))
        del columns[at]
        data = [r[:at] + r[at + 1 :] if len(r) > at else r for r in data]
    if rng.random() < 0.06:
        columns.append("more")
        data = [[*r, 1] for r in data]
    if rng.random() < 0.1:
        order = list(range(len(columns)))
        rng.shuffle(order)
        columns = [columns[i] for i in order]
        data = [[r[i] for i in order] if len(r) == len(order) else r for r in data]
    if rng.random() < 0.04:
        data = []
    return columns, data


def drawn_params(rng):
    return pick(rng, {json.dumps(p): 1 for p in (
        {"n": 5}, {"n": "5"}, {"n": 2.5}, {"n": None}, {"t": 1}, {"t": "x"}, {"s": 1}, {"s": "b"}, {"l": [3]}, {"l": 3}, {"l": ["x"]}, {"b": False}, {"b": 1}, {"other": 1}, {}, [], "x", 3, None,
    )})  # fmt: skip


def filled(name, rng, form):
    """Draw a body of one of MLflow's forms."""
    columns, data = table(name, rng)
    if form == "dataframe_split":
        body = {"columns": columns, "data": data}
        if rng.random() < 0.3:
            body["index"] = list(range(len(data)))
        if rng.random() < 0.1:
            del body["columns"]
        if rng.random() < 0.03:
            body["more"] = 1
        return body
    if form == "dataframe_records":
        return [dict(zip(columns, r)) for r in data]
    kind = rng.random()
    if name in ("tensor", "integers", "bare", "untyped", "text", "replies", "onnx_bare", "onnx_unnamed") and kind < 0.7:
        return [r[0] for r in data if r] if name in ("text", "replies") else data
    if name == "onnx" and kind < 0.7:
        flat = [r[0] if r and isinstance(r[0], list) else r for r in data]
        return {"X": flat} if form == "inputs" else [{"X": r} for r in flat]
    if form == "inputs" and kind < 0.85:
        return {c: [r[i] for r in data if i < len(r)] for i, c in enumerate(columns)}
    if kind < 0.9:
        return [dict(zip(columns, r)) for r in data]
    return data


def csv(name, rng):
    columns, data = table(name, rng)
    lines = [",".join(columns)] if rng.random() < 0.95 else []
    lines += [",".join("" if v is None else str(v) for v in r) for r in data]
    return "\n".join(lines).encode("utf-8", "replace") + rng.choice([b"", b"\n", b"\n", b"\n\xff" if rng.random() < 0.2 else b"\n"])


def parquet(name, rng):
    import io

    import pandas as pd

    columns, _ = table(name, rng)
    frame = pd.DataFrame([[rng.choice([1.0, 2.5, 3.0]) for _ in columns] for _ in range(2)], columns=columns)
    out = io.BytesIO()
    frame.to_parquet(out)
    whole = out.getvalue()
    return whole if rng.random() < 0.8 else whole[: rng.randrange(len(whole))]


def for_model(name, rng):
    """Draw a request in MLflow's forms."""
    kind = rng.random()
    if kind < 0.08:
        target = rng.choice(["/ping", "/health", "/version", "/invocations", "/invocations/", "/", "/nothing", "/docs", "/openapi.json", "/redoc", "/ping/"])
        method = pick(rng, {"GET": 6, "POST": 1, "PUT": 1, "DELETE": 1, "OPTIONS": 1})
        if target == "/" and method == "GET":
            target = "/ping"
        return Case(method, target, [("User-Agent", "parity")], b"")
    if kind < 0.18:
        content_type = pick(rng, {"text/csv": 12, "text/csv; charset=utf-8": 2, "text/csv; charset=latin-1": 1, "text/csv; format=pandas-split": 1, "text/csv;charset=UTF-8": 1})
        return Case("POST", "/invocations", drawn_headers(rng, content_type, 1), csv(name, rng))
    if kind < 0.23:
        return Case("POST", "/invocations", drawn_headers(rng, "application/vnd.apache.parquet", 1), parquet(name, rng))
    form = pick(rng, {"dataframe_split": 4, "dataframe_records": 3, "instances": 3, "inputs": 4})
    body = {form: filled(name, rng, form) if rng.random() < 0.96 else value(rng)}
    if rng.random() < (0.7 if name == "params" else 0.1):
        body["params"] = json.loads(drawn_params(rng))
    if rng.random() < 0.03:
        body[rng.choice(["dataframe_split", "instances", "inputs", "signature_name", "x"])] = value(rng)
    if rng.random() < 0.04:
        body = rng.choice([{"messages": [{"role": "user", "content": "hi"}]}, {"prompt": "p", "n": 9}, {"input": ["a", "b"]}, value(rng), {}, [body]])
    content_type = pick(rng, {JSON: 20, "application/json; charset=utf-8": 2, "application/json;charset=UTF-8": 1, "application/json; charset=latin-1": 1, "application/json; format=pandas-split": 1, "text/plain": 1, "application/x-json": 1})
    return Case("POST", "/invocations", drawn_headers(rng, content_type, 1), encoded(rng, body))


def for_native(name, rng):
    """Draw a request in MLflow's forms that a model without Python is made for: MLflow's web pages are not among them."""
    case = for_model(name, rng)
    return dataclasses.replace(case, target="/invocations") if case.target in ("/invocations/", "/nothing", "/docs", "/openapi.json", "/redoc", "/ping/", "/") else case


def for_input_data(name, rng):
    """Draw a request in Azure's form for MLflow models."""
    if rng.random() < 0.15:
        case = aside(rng)
        # MLflow's own paths and what does not exist are MLflow's matter.
        return dataclasses.replace(case, target=rng.choice(["/", "/swagger.json", "/swagger.json?version=2", "/swagger.json?version=3", "/swagger.json?version=3.1", "/swagger.json?version=9"]), method="GET")
    columns, data = table(name, rng)
    kind = rng.random()
    if kind < 0.5:
        given = {"columns": columns, "index": list(range(len(data))), "data": data}
        if rng.random() < 0.3:
            del given["index"]
    elif kind < 0.75:
        given = data
    elif kind < 0.9:
        given = {c: [r[i] for r in data if i < len(r)] for i, c in enumerate(columns)}
    elif kind < 0.95:
        given = [dict(zip(columns, r)) for r in data]
    else:
        given = value(rng)
    body = {"input_data": given}
    if rng.random() < (0.7 if name == "params" else 0.1):
        body["params"] = json.loads(drawn_params(rng))
    if rng.random() < 0.05:
        body = rng.choice([{}, {"params": {}}, [1], {"data": given}, None, {"input_data": given, "more": 1}])
    if rng.random() < 0.05:
        return Case("GET", "/score?input_data=" + urllib.parse.quote(json.dumps(given)), drawn_headers(rng, None), b"")
    return scored(rng, encoded(rng, body), JSON if rng.random() < 0.9 else None)
