"""The contract of the Azure inference server (azureml-inference-server-http
1.5.1) around a scoring script with init() and run().

What is told to callers, the headers and the log are those of that server, byte
for byte where that can be. Flask is loaded only for scripts that use it.
"""

import importlib.util
import inspect
import json
import logging
import os
import signal
import sys
import time
import traceback
import types
import urllib.parse
import uuid

import lapis_collect
import lapis_cors
import lapis_flask
import lapis_headers
import lapis_log
import lapis_settings
import lapis_swagger
import lapis_warm
from lapis_failure import Failure
from lapis_headers import find

MODULE = "azureml_inference_server_http.server.user_script"  # where errors say they come from
LONGEST_ID = 100  # characters of a request's id
TREE_LINES = 200  # of the model's folder that are logged when init() fails
NO_TIMEOUT = 600 * 1000  # ms; the gateway's deadlines are shorter than a time-out of this
JSON = b"Content-Type: application/json\r\n"
HTML = b"Content-Type: text/html; charset=utf-8\r\n"
FAILED = b"X-Ms-Run-Function-Failed: True\r\n"
NOT_FAILED = b"X-Ms-Run-Function-Failed: False\r\n"
SCRIPT_FAILED = "An unexpected error occurred in scoring script. Check the logs for more info."
INTERNAL = "An unexpected internal error occurred. Check the logs for more info."
NOT_ALLOWED = "The method is not allowed for the requested URL."
NOT_FOUND = (
    "The requested URL was not found on the server. If you entered the URL manually please check your spelling"
    " and try again."
)
CRASHED = b"""<html>
  <head>
    <title>Internal Server Error</title>
  </head>
  <body>
    <h1><p>Internal Server Error</p></h1>
    \n  </body>
</html>
"""

logger = logging.getLogger("azmlinfsrv")
script_logger = logging.getLogger("azmlinfsrv.user_script")


class UserScriptError(Exception):
    pass


class UserScriptException(UserScriptError):
    pass


class UserScriptImportException(UserScriptException):
    pass


class UserScriptTimeout(UserScriptError):
    pass


for _c in (UserScriptError, UserScriptException, UserScriptImportException, UserScriptTimeout):
    _c.__module__ = MODULE


class Refused(Exception):
    """A request that the script does not get: a status and a message."""

    def __init__(self, status, message):
        super(Refused, self).__init__(message)
        self.status = status


class Application(object):
    def start(self):
        lapis_log.start()
        logging.getLogger("gunicorn.error").info("Booting worker with pid: %d", os.getpid())
        try:
            self.settings = settings = lapis_settings.Settings()
        except lapis_settings.Invalid as e:
            logger.critical(
                "\n===============Configuration Error=================\n%s (environment variable: %s)"
                "\n===================================================",
                e, str(e).partition(":")[0],
            )  # fmt: skip
            raise Failure(str(e))
        if settings.debug_port:
            debug(settings.debug_port)
        if settings.extra:
            logger.warning(
                "Found extra keys in the config file that are not supported by the server.\nExtra keys = %s",
                settings.extra,
            )
        if not lapis_log.load(settings.app_root) and settings.entry_script:
            lapis_log.load(os.path.dirname(os.path.realpath(settings.entry_script)))
        self.paths()
        print("Initializing logger")
        sys.stdout.flush()
        lapis_log.take_print()
        logger.info("Starting up app insights client")
        model = settings.azureml_model_dir
        if not model or not os.path.exists(model):
            text = "Model directory is not set or does not exist: %s"
            logging.getLogger("azmlinfsrv.trace").warning(text, model)
        self.origins = [o.strip() for o in (settings.cors_origins or "").split(",")] if settings.cors_origins else []
        if self.origins:
            logger.info("Enabling CORS for the following origins: %s", ", ".join(self.origins))
        self.load()
        self.init()
        self.prepare()
        logger.info("Scoring timeout is set to %s", settings.scoring_timeout)
        logger.info("Worker with pid %d ready for serving traffic", os.getpid())
        self.log = lapis_log.Requests()

    def paths(self):
        """The script finds the app's root, then what the platform brings."""
        here = os.path.dirname(os.path.abspath(__file__))
        sys.path[:] = [p for p in sys.path if p != here]
        settings = self.settings
        if settings.app_root not in sys.path:
            sys.path.append(settings.app_root)
        if settings.source_dir:
            sys.path.append(os.path.join(settings.app_root, settings.source_dir))
        platform = os.environ.get("LAPIS_PLATFORM_PACKAGES")
        if platform:
            sys.path.append(platform)
        sys.path.append(os.path.join(here, "shims"))
        for name in ("aml_request", "aml_response"):
            old, new = "azureml.contrib.services." + name, "azureml_inference_server_http.api." + name
            sys.modules.setdefault(old, Alias(old, new))

    # -- the script

    def load(self):
        settings = self.settings
        try:
            try:
                module = self.import_script()
            except BaseException as e:
                raise UserScriptImportException(
                    "Failed to import user script because it raised an unhandled exception"
                ) from e
            for name in ("init", "run"):
                if not hasattr(module, name):
                    raise UserScriptError(
                        "User script at %s does not have a %s() function defined." % (module.__file__, name)
                    )
            driver = getattr(module, "driver_module", None)
            if isinstance(driver, types.ModuleType) and hasattr(driver, "run"):
                self.run = driver.run
                script_logger.info(
                    "Found driver script at %s and the score script at %s", module.__file__, driver.__file__
                )
            else:
                self.run = module.run
                script_logger.info("Found user script at %s", module.__file__)
            self.user_init = module.init
            self.look_at_run()
        except UserScriptError as e:
            text = traceback.format_exc()
            if "No module named 'main'" in text and not settings.entry_script:
                logger.error("No score script found. Expected score script main.py.")
                logger.error("Expected script to be found in PYTHONPATH: %s", sys.path)
                if os.path.isdir(settings.app_root):
                    logger.error("Current contents of AML_APP_ROOT: %s", os.listdir(settings.app_root))
                else:
                    logger.error("The directory %s not an accessible directory in the container.", settings.app_root)
            else:
                if "FileNotFoundError" in text:
                    logger.error("No such file or directory.")
                logger.error(text)
            raise Failure("%s\n%s" % (first_line(e.__cause__ or e, lapis_warm.roots()), text))

    def import_script(self):
        if not self.settings.entry_script:
            import main

            return main
        path = os.path.join(self.settings.app_root, self.settings.entry_script)
        spec = importlib.util.spec_from_file_location("entry_module", path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        return module

    def look_at_run(self):
        """Decides what run() is given."""
        parameters = list(inspect.signature(self.run).parameters.values())
        if any(p.kind not in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD) for p in parameters):
            raise UserScriptError("run() cannot accept positional-only arguments, *args, or **kwargs.")
        inputs = [p for p in parameters if p.name != "request_headers"]
        self.wants_headers = len(inputs) < len(parameters)
        if not inputs:
            raise UserScriptError(
                'run() needs to accept an argument other than "request_headers".'
                if self.wants_headers
                else "run() needs to accept an argument for input data."
            )
        self.inputs = inputs
        self.first = inputs[0].name
        self.by_name = inputs[0].kind is inputs[0].KEYWORD_ONLY or parameters[0].name == "request_headers"
        request = sys.modules.get("azureml_inference_server_http.api.aml_request")
        self.raw = bool(getattr(request, "_rawHttpRequested", False))
        util = sys.modules.get("inference_schema.schema_util")
        self.schema = bool(util and util.is_schema_decorated(self.run))
        if self.raw and self.schema:
            raise UserScriptError("run() cannot be decorated with both @rawhttp and @input_schema")
        if self.raw:
            script_logger.info("run() is decorated with @rawhttp. Server will invoke it with the flask request object.")
        elif self.schema:
            script_logger.info(
                "run() is decorated with @input_schema. Server will invoke it with the following arguments: %s.",
                ", ".join(p.name for p in inputs),
            )
        else:
            script_logger.info("run() is not decorated. Server will invoke it with the input in JSON string.")

    def init(self):
        script_logger.info("Invoking user's init function")
        try:
            try:
                self.user_init()
            except BaseException as e:
                raise UserScriptException("Caught an unhandled exception from the user script") from e
        except UserScriptException as e:
            text = traceback.format_exc()
            logger.error("User's init function failed")
            logger.error("Encountered Exception %s", text)
            folder = self.settings.azureml_model_dir
            if folder and os.path.exists(folder):
                logger.info("Model Directory Contents:")
                for n, line in enumerate(tree(folder)):
                    if n == TREE_LINES:
                        logger.info("Output Truncated. First %d lines shown.", TREE_LINES)
                        break
                    logger.info(line)
            raise Failure("%s\n%s" % (first_line(e.__cause__, lapis_warm.roots()), text))
        script_logger.info("Users's init has completed successfully")

    def prepare(self):
        self.swagger = lapis_swagger.Documents(self.settings, self.run if self.schema else None)
        self.context = None
        if self.raw or "flask" in sys.modules:
            self.context = lapis_flask.Context()
        self.read_version()

    def read_version(self):
        self.version = b""
        version = os.environ.get("HTTP_X_MS_SERVER_VERSION", "")
        if version:
            self.version = b"X-Ms-Server-Version: " + version.encode("latin-1", "replace") + b"\r\n"

    # -- requests

    def answer(self, method, target, headers, body):
        started = time.perf_counter()
        path = target.partition(b"?")[0]
        if path != b"/score" or b"#" in target:
            target = target.partition(b"#")[0]
            path = urllib.parse.unquote_to_bytes(target.partition(b"?")[0])
            if path.startswith(b"//"):
                path = b"/" + path.lstrip(b"/")
        try:
            if path == b"/score" and method in (b"POST", b"GET", b"OPTIONS", b"HEAD"):
                return self.blueprint(self.score, started, method, target, headers, body)
            if path == b"/" and method in (b"GET", b"HEAD", b"OPTIONS"):
                return self.blueprint(self.healthy, started, method, target, headers, body)
            if path == b"/swagger.json" and method in (b"GET", b"HEAD", b"OPTIONS"):
                return self.blueprint(self.document, started, method, target, headers, body)
        except BaseException:
            # What the server in front of the application answers then.
            text = "%s %s" % (method.decode("latin-1"), target.decode("latin-1"))
            logging.getLogger("gunicorn.error").error("Error handling request %s", text, exc_info=True)
            return 500, b"Content-Type: text/html\r\n", CRASHED, (None, method, target, 500, 0, None)
        known = path in (b"/score", b"/", b"/swagger.json")
        status, message = (405, NOT_ALLOWED) if known else (404, NOT_FOUND)
        text = b"" if method == b"HEAD" else json.dumps({"message": message}).encode()
        return status, JSON + NOT_FAILED, text, (None, method, target, status, len(text), headers)

    def blueprint(self, view, started, method, target, headers, body):
        """What the server does around each of its own routes."""
        trace = self.trace(headers)
        refused = type(trace) is tuple
        if refused:
            trace, message = trace
            status, head, reply = error(431, message)
        else:
            try:
                status, head, reply = view(method, target, headers, body)
            except Refused as e:
                status, head, reply = error(e.status, str(e))
            except Exception:
                logger.error("Encountered Exception: %s", traceback.format_exc())
                status, head, reply = error(500, INTERNAL)
        if self.origins:
            head += self.cors(method, headers)
        size = len(reply) if type(reply) is bytes else None
        if method == b"HEAD" and size is not None:
            head += b"Content-Length: %d\r\n" % size
            reply = b""
        took = time.perf_counter() - started if view != self.healthy and not refused else None
        return status, head + trace, reply, (took, method, target, status, size, headers)

    def trace(self, headers):
        """The header lines by which a request is known; or, when one that came
        is too long, (lines, message)."""
        lines = self.version
        request = find(headers, b"X-Request-Id")
        if request is None:
            request = str(uuid.uuid4()).encode()
        echo = find(headers, b"Traceid")
        echo = b"" if echo is None else b"Traceid: " + echo + b"\r\n"
        if len(request) > LONGEST_ID:
            return lines + echo, "x-request-id must not exceed %d characters" % LONGEST_ID
        if request:
            lines += b"X-Request-Id: " + request + b"\r\n"
        client = find(headers, b"X-Ms-Client-Request-Id") or b""
        legacy = find(headers, b"X-Ms-Request-Id")
        if legacy:
            logger.warning(
                "x-ms-request-id header has been deprecated and will be removed from future versions of the server."
                " Please use x-ms-client-request-id."
            )
            client = client or legacy
        else:
            legacy = client or request
        if len(legacy) > LONGEST_ID or len(client) > LONGEST_ID:
            return (
                lines + echo,
                "x-ms-request-id and x-ms-client-request-id must not exceed %d characters" % LONGEST_ID,
            )
        if legacy:
            lines += b"X-Ms-Request-Id: " + legacy + b"\r\n"
        if client:
            lines += b"X-Ms-Client-Request-Id: " + client + b"\r\n"
        return lines + echo if echo else lines

    def healthy(self, method, target, headers, body):
        if method == b"OPTIONS":
            return 200, b"Content-Type: text/html; charset=utf-8\r\nAllow: GET, HEAD, OPTIONS\r\n", b""
        return 200, HTML, b"Healthy"

    def document(self, method, target, headers, body):
        if method == b"OPTIONS":
            return 200, b"Content-Type: text/html; charset=utf-8\r\nAllow: GET, HEAD, OPTIONS\r\n", b""
        versions = [v for k, v in query(target) if k == "version"]
        status, found = self.swagger.find(versions[0] if versions else "2")
        if status != 200:
            return error(status, found)
        return 200, JSON + NOT_FAILED, json.dumps(found).encode()

    def score(self, method, target, headers, body):
        if self.context is not None:
            with self.context.of(method, target, headers, body):
                status, head, reply = self.scored(method, target, headers, body)
            if type(reply) is not bytes:
                reply = lapis_flask.begun(reply)
            return status, head, reply
        return self.scored(method, target, headers, body)

    def scored(self, method, target, headers, body):
        if self.raw:
            given = {self.first: self.context.request}
        elif method == b"POST":
            if self.schema:
                given = self.arguments(of_body(headers, body))
            else:
                if b"Content-Type: " in headers and is_form(headers):
                    body = b""
                try:
                    given = {self.first: str(body, "utf-8")}
                except UnicodeDecodeError as e:
                    return error(400, "Input cannot be decoded as UTF-8: %s" % e)
        elif method == b"GET":
            given = of_query(target)
            given = self.arguments(given) if self.schema else {self.first: json.dumps(given)}
        elif method == b"OPTIONS":
            return 200, HTML + NOT_FAILED, b""
        else:
            return error(405, "Method not allowed")
        if self.wants_headers:
            given["request_headers"] = header_dict(headers, body)
        timeout = self.settings.scoring_timeout
        try:
            try:
                if timeout < NO_TIMEOUT:
                    result, took = timed(self.run, given, timeout)
                else:
                    began = time.perf_counter()
                    result = self.run(**given)
                    took = time.perf_counter() - began
            except TimeoutError:
                raise UserScriptTimeout(
                    "Script failed to finish execution within the allocated time: %sms" % timeout
                ) from None
            except Exception as e:
                raise UserScriptException("Caught an unhandled exception from the user script") from e
        except UserScriptTimeout:
            logger.error("Encountered Exception: %s", traceback.format_exc())
            return error(500, "Scoring timeout after %s ms" % timeout, FAILED)
        except UserScriptException:
            logger.error("Encountered Exception: %s", traceback.format_exc())
            return error(500, SCRIPT_FAILED, FAILED)
        took = b"X-Ms-Run-Fn-Exec-Ms: %.3f\r\n" % (took * 1000)
        flask = sys.modules.get("flask")
        if flask is not None and isinstance(result, flask.Response):
            logger.info("run() output is HTTP Response")
            if result.status_code >= 500:
                result.headers["x-ms-run-function-failed"] = "True"
            status, head, reply = lapis_flask.reply(result, method, target, headers, body)
            if self.context is None and type(reply) is not bytes:
                reply = lapis_flask.begun(reply)
            return status, head + took, reply
        if result is None:
            result = {}
        return 200, JSON + NOT_FAILED + took, json.dumps(result).encode()

    def arguments(self, body):
        given = {}
        for p in self.inputs:
            value = body.get(p.name, p.default)
            if value is p.empty:
                raise Refused(400, "A value is not provided for the %r parameter." % p.name)
            given[p.name] = value
        return given

    def cors(self, method, headers):
        return lapis_cors.headers(self.origins, method, headers)

    def sent(self, log):
        self.log.write(log)

    def stop(self):
        lapis_collect.stop()


class Alias(types.ModuleType):
    """A module that is another one, which is imported when it is first used."""

    def __init__(self, name, other):
        super(Alias, self).__init__(name)
        self.__dict__["_other"] = other

    def __getattr__(self, name):
        if name in ("__path__", "__spec__", "__file__", "_other"):
            raise AttributeError(name)
        module = importlib.import_module(self.__dict__["_other"])
        if name == "__all__":
            return [n for n in vars(module) if not n.startswith("_")]
        return getattr(module, name)


def debug(port):
    """Waits for the debugger that listens on a port."""
    print("!! Starting the inference server in DEBUGGING mode because AZUREML_DEBUG_PORT is set.")
    print("!! This environment variable should not be set in a production environment.")
    try:
        import debugpy
    except ImportError:
        print("** Cannot connect to a debugger because debugpy is not installed.")
        raise Failure("AZUREML_DEBUG_PORT is set, and debugpy is not installed: add it to the environment")
    print("** Connecting to debugger at port %d..." % port)
    debugpy.connect(port)
    debugpy.wait_for_client()


def error(status, message, failed=NOT_FAILED):
    return status, JSON + failed, json.dumps({"message": message}).encode()


def _alarm(*_):
    raise TimeoutError


def timed(run, given, timeout):
    """run() with a time-out in ms: (result, seconds)."""
    before = signal.signal(signal.SIGALRM, _alarm)
    signal.setitimer(signal.ITIMER_REAL, timeout / 1000)
    try:
        began = time.perf_counter()
        result = run(**given)
        return result, time.perf_counter() - began
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def mime_type(headers):
    return (find(headers, b"Content-Type") or b"").partition(b";")[0].strip().lower()


def is_form(headers):
    """Whether a form parser eats the body."""
    kind = mime_type(headers)
    if kind == b"multipart/form-data":
        _, named, boundary = find(headers, b"Content-Type").lower().partition(b"boundary=")
        return bool(named and boundary.partition(b";")[0].strip(b' "'))
    return kind == b"application/x-www-form-urlencoded"


def of_body(headers, body):
    kind = mime_type(headers)
    if kind != b"application/json" and not (kind.startswith(b"application/") and kind.endswith(b"+json")):
        raise Refused(415, "Expects Content-Type to be application/json")
    try:
        value = json.loads(body)
    except json.JSONDecodeError as e:
        if body:
            raise Refused(400, "POST body could not be decoded as JSON: %s" % e) from None
        raise Refused(400, "POST body is empty. Expecting a JSON dictionary.") from None
    if not isinstance(value, dict):
        raise Refused(400, "POST body should be a JSON dictionary.")
    return value


def query(target):
    """Names and values of a target's query, in order."""
    text = target.partition(b"?")[2].decode()
    return urllib.parse.parse_qsl(text, keep_blank_values=True, errors="lapis.percent")


def _percent(e):
    """Bytes that are no UTF-8 stay as they came."""
    return urllib.parse.quote(e.object[e.start : e.end], safe=""), e.end


def _register():
    import codecs

    codecs.register_error("lapis.percent", _percent)


_register()


def of_query(target):
    values = {}
    for name, value in query(target):
        try:
            value = json.loads(value)
        except ValueError:
            pass
        values.setdefault(name, []).append(value)
    return {name: v[0] if len(v) == 1 else v for name, v in values.items()}


def header_dict(headers, body):
    """The headers as run() gets them: one value for each name."""
    found = {}
    for name, value in lapis_headers.pairs(headers):
        if "_" in name:  # the server in front drops them
            continue
        name = name.title()
        found[name] = found[name] + "," + value if name in found else value
    if "Content-Length" not in found and body:
        found["Content-Length"] = str(len(body))
    return found


def first_line(e, folders):
    """What a user needs to know of an exception, in one line: what, and where in
    the user's own files."""
    if type(e) is UserScriptError:
        return str(e)
    text = traceback.format_exception_only(type(e), e)[-1].strip()
    text = text.splitlines()[0] if text else type(e).__name__
    at = None
    if isinstance(e, SyntaxError):
        at = (e.filename, e.lineno)
    else:
        for frame, line in traceback.walk_tb(e.__traceback__):
            name = frame.f_code.co_filename
            if any(os.path.realpath(name).startswith(os.path.realpath(d) + os.sep) for d in folders):
                at = (name, line)
    if at and at[0]:
        name = os.path.basename(at[0])
        for d in folders[:1]:
            if os.path.realpath(at[0]).startswith(os.path.realpath(d) + os.sep):
                name = os.path.relpath(os.path.realpath(at[0]), os.path.realpath(d))
        text += " (%s, line %s)" % (name, at[1])
    return text


def tree(path, depth=0):
    """The lines that show what a folder holds."""
    path = os.path.normpath(path)
    name = " " * (4 * depth) + os.path.basename(path)
    if not os.path.isdir(path):
        yield name
        return
    yield name + os.sep
    for child in sorted(os.listdir(path)):
        for line in tree(os.path.join(path, child), depth + 1):
            yield line
