"""The part of Flask that scripts see: the request of @rawhttp, `flask.request`,
and replies that are flask.Response. Loaded only for scripts that use it."""

import contextlib
import io
import sys
import urllib.parse

import lapis_headers


class Crash(BaseException):
    """A reply that the server in front of the application cannot send."""


class Context(object):
    """The Flask application whose request a script sees."""

    def __init__(self):
        import flask

        self.app = flask.Flask("azureml_inference_server_http.server.create_app")
        self.request = flask.request
        self.g = flask.g

    def of(self, method, target, headers, body):
        """The context of one request, for a with statement."""
        return self.entered(environ(method, target, headers, body))

    @contextlib.contextmanager
    def entered(self, environ):
        legacy = environ.get("HTTP_X_MS_REQUEST_ID", "")
        with self.app.request_context(environ):
            g = self.g
            g.api_name = "/score"
            g.request_id = environ.get("HTTP_X_REQUEST_ID", "")
            g.client_request_id = environ.get("HTTP_X_MS_CLIENT_REQUEST_ID") or legacy
            g.legacy_client_request_id = legacy or g.client_request_id or g.request_id
            yield


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
        if "_" in name:  # the server in front drops them
            continue
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
    number = int(status.split(" ", 1)[0])
    if not 200 <= number <= 999:
        raise Crash("a reply of status %s" % status)
    # What the server writes over.
    replaced = ["x-request-id", "x-ms-request-id"]
    if b"X-Ms-Client-Request-Id: " in headers or b"X-Ms-Request-Id: " in headers:
        replaced.append("x-ms-client-request-id")
    lines = lapis_headers.lines(
        (name, value)
        for name, value in pairs
        if name.lower() not in replaced and not (name.lower() == "content-length" and method != b"HEAD")
    )
    if streamed:
        return number, lines, pieces
    try:
        return number, lines, b"".join(pieces)
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()


def begun(pieces):
    """The same pieces; the first has been made, so that one that fails before
    it is an error and not half a reply."""
    try:
        rest = iter(pieces)
        first = next(rest, b"")
    except Exception as e:
        raise Crash("the reply could not be made") from e
    return chain(first, rest, pieces)


def chain(first, rest, pieces):
    try:
        yield first
        for piece in rest:
            yield piece
    finally:
        close = getattr(pieces, "close", None)
        if close is not None:
            close()
