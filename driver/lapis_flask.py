"""The part of Flask that scripts see: the request of @rawhttp, `flask.request`,
and replies that are flask.Response. Loaded only for scripts that use it."""

import io
import sys
import urllib.parse

import lapis_headers


class Context(object):
    """The Flask application whose request a script sees."""

    def __init__(self):
        import flask

        self.app = flask.Flask("azureml_inference_server_http.server.create_app")
        self.request = flask.request

    def of(self, method, target, headers, body):
        """The context of one request, for a with statement."""
        return self.app.request_context(environ(method, target, headers, body))


def environ(method, target, headers, body):
    """The request as WSGI has it."""
    path, _, query = target.partition(b"?")
    e = {
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "http",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": sys.stderr,
        "wsgi.multithread": False,
        "wsgi.multiprocess": True,
        "wsgi.run_once": False,
        "wsgi.input_terminated": True,
        "SERVER_SOFTWARE": "gunicorn/27.0.1",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REQUEST_METHOD": method.decode("latin-1"),
        "RAW_URI": target.decode("latin-1"),
        "SCRIPT_NAME": "",
        "PATH_INFO": urllib.parse.unquote_to_bytes(path).decode("latin-1"),
        "QUERY_STRING": query.decode("latin-1"),
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": "0.0.0.0",
        "SERVER_PORT": "5001",
    }
    for name, value in lapis_headers.pairs(headers):
        name = name.upper().replace("-", "_")
        if name not in ("CONTENT_TYPE", "CONTENT_LENGTH"):
            name = "HTTP_" + name
            if name in e:
                value = e[name] + "," + value
        e[name] = value
    if "HTTP_TRANSFER_ENCODING" not in e and (body or "CONTENT_LENGTH" in e):
        e["CONTENT_LENGTH"] = str(len(body))
    host, _, port = e.get("HTTP_HOST", "").rpartition(":")
    if port.isdigit():
        e["SERVER_NAME"], e["SERVER_PORT"] = host, port
    return e


def reply(response, method, target, headers, body):
    """A flask.Response as (status, header lines, body or an iterator of its
    pieces)."""
    pieces, status, pairs = response.get_wsgi_response(environ(method, target, headers, body))
    streamed = response.is_streamed
    lines = lapis_headers.lines(
        (name, value) for name, value in pairs if not (name.lower() == "content-length" and method != b"HEAD")
    )
    number = int(status.split(" ", 1)[0])
    if streamed:
        return number, lines, pieces
    try:
        return number, lines, b"".join(pieces)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
