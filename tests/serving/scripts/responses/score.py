import json

import flask
from azureml_inference_server_http.api.aml_response import AMLResponse


def init():
    pass


def stream():
    yield "a"
    yield "b"
    yield ""
    yield "c" * 100


WORKS = {
    "none": lambda: AMLResponse(None, 202),
    "text": lambda: AMLResponse("text", 200),
    "json": lambda: AMLResponse({"a": 1}, 200, json_str=True),
    "jsontext": lambda: AMLResponse("text", 200, json_str=True),
    "404": lambda: AMLResponse({"m": "not here"}, 404, json_str=True),
    "500": lambda: AMLResponse("broken", 500),
    "503": lambda: AMLResponse("later", 503, {"Retry-After": "7"}),
    "headers": lambda: AMLResponse("x", 200, {"X-One": "1", "X-Many": "a, b,c", "Content-Type": "text/x-own"}),
    "jsonheaders": lambda: AMLResponse({"a": 1}, 200, {"X-One": "1"}, json_str=True),
    "failed": lambda: AMLResponse("x", 200, run_function_failed=True),
    "ownflag": lambda: AMLResponse("x", 500, {"x-ms-run-function-failed": "maybe"}),
    "bytes": lambda: AMLResponse(b"\x00\xff", 200),
    "flask": lambda: flask.Response("plain", 200),
    "flask201": lambda: flask.Response("made", 201, {"Location": "/there"}),
    "flask500": lambda: flask.Response("no", 500),
    "flask204": lambda: flask.Response(status=204),
    "flask304": lambda: flask.Response(status=304),
    "redirect": lambda: flask.redirect("/elsewhere"),
    "jsonify": lambda: flask.jsonify(a=1, b=[1, 2]),
    "make": lambda: flask.make_response(("made", 418, {"X-Tea": "pot"})),
    "stream": lambda: flask.Response(stream(), mimetype="text/plain"),
    "events": lambda: flask.Response((f"data: {i}\n\n" for i in range(3)), mimetype="text/event-stream"),
    "cookies": lambda: cookies(),
    "cached": lambda: flask.Response("c", headers={"ETag": '"1"', "Cache-Control": "no-store"}),
    "599": lambda: flask.Response("odd", 599),
}


def cookies():
    r = flask.Response("c")
    r.set_cookie("a", "1")
    r.set_cookie("b", "2")
    return r


def run(data):
    return WORKS[json.loads(data)["what"]]()
