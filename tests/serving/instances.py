"""The ways to the same code of a user: a deployment, asked through the gateway;
an instance of Lapis, asked in frames as the gateway asks it; and the servers of
others, asked over HTTP.

All give an Answer for method, target, headers and body.
"""

import contextlib
import dataclasses
import http.client
import json
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import urllib.parse

REPOSITORY = pathlib.Path(__file__).parents[2]
DRIVER = pathlib.Path(os.environ.get("LAPIS_DRIVER") or REPOSITORY / "driver") / "lapis_group.py"
START = 300  # seconds that a server may take to start


@dataclasses.dataclass
class Answer:
    status: int
    headers: list  # of (name, value)
    body: bytes

    def all(self, name):
        return [v for n, v in self.headers if n.lower() == name.lower()]


class NotStarted(Exception):
    """The server or instance ended, or failed, while it started; the text is its log."""


class Instance:
    """A group of one instance with one worker, and a connection to it.

    The environment is what a deployment gives a group: the script's folder or
    the model's. The log is the file to which all is printed.
    """

    def __init__(self, environ, python=sys.executable, command=None):
        self.folder = tempfile.TemporaryDirectory(prefix="group")
        folder = pathlib.Path(self.folder.name)
        self.log = folder / "log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                command or [python, "-u", DRIVER],
                env={**os.environ, "LAPIS_GROUP_DIR": str(folder), "LAPIS_GROUP": "e/d/1", "LAPIS_GROUP_COUNT": "1", "LAPIS_GROUP_WORKERS": "1", **environ},
                stdout=out, stderr=out, start_new_session=True,
            )
        self.conn = None
        try:
            self.address = self.ready()
        except BaseException:
            self.stop()
            raise

    def ready(self):
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise NotStarted(self.log.read_text())
            with contextlib.suppress(OSError):
                reply = self.connection(pathlib.Path(self.folder.name) / "control.sock").ask("GET", "/instances", [], b"")
                instances = json.loads(reply.body)["instances"]
                if instances and instances[0]["state"] == "Ready":
                    return instances[0]["address"]
                if instances and instances[0]["state"] == "Failed" and instances[0].get("fatal"):
                    raise NotStarted(instances[0]["error"])
            time.sleep(0.02)
        raise NotStarted(f"not ready within {START} s: {self.log.read_text()}")

    @staticmethod
    def connection(path):
        return Connection(path)

    def ask(self, method, target, headers, body, timeout=60):
        if self.conn is None:
            self.conn = Connection(self.address)
        try:
            return self.conn.ask(method, target, headers, body, timeout)
        except OSError:
            self.conn.close()
            self.conn = None
            raise

    def stop(self):
        if self.conn is not None:
            self.conn.close()
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.folder.cleanup()


class Connection:
    """A connection of frames, as the dialling side."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(START)
        try:
            self.socket.connect(str(path))
            kind, payload = self.read()
        except BaseException:
            self.socket.close()
            raise
        if kind != b"h":
            raise ConnectionError(f"a frame {kind} in place of a Hello")
        self.hello = json.loads(payload)

    def close(self):
        self.socket.close()

    def exactly(self, n):
        parts = bytearray()
        while len(parts) < n:
            part = self.socket.recv(min(n - len(parts), 1 << 20))
            if not part:
                raise ConnectionResetError("the connection ended within a frame")
            parts += part
        return bytes(parts)

    def read(self):
        (size,) = struct.unpack("<I", self.exactly(4))
        whole = self.exactly(size)
        return whole[:1], whole[1:]

    def ask(self, method, target, headers, body, timeout=60):
        """Send a request and read its reply, in one piece or in many. Headers are sent with names in their canonical form, as the gateway does."""
        if body and not any(n.lower() == "content-length" for n, _ in headers):
            headers = [*headers, ("Content-Length", str(len(body)))]
        if not any(n.lower() == "host" for n, _ in headers):
            headers = [("Host", "localhost"), *headers]
        lines = "".join(f"{'-'.join(part.capitalize() for part in n.split('-'))}: {v}\r\n" for n, v in headers).encode("latin-1")
        method, target = method.encode(), target.encode("latin-1")
        payload = struct.pack("<IH", int(timeout * 1000), len(method)) + method + struct.pack("<H", len(target)) + target
        payload += struct.pack("<I", len(lines)) + lines + body
        self.socket.sendall(struct.pack("<I", 1 + len(payload)) + b"q" + payload)
        kind, reply = self.read()
        if kind not in (b"s", b"b"):
            raise ConnectionError(f"a frame {kind} in place of a reply: {reply[:200]}")
        status, size = struct.unpack("<HI", reply[:6])
        given = [tuple(part.strip() for part in line.split(":", 1)) for line in reply[6 : 6 + size].decode("latin-1").split("\r\n") if line]
        answer = Answer(status, given, reply[6 + size :])
        while kind != b"s":
            kind, part = self.read()
            if kind == b"d":
                answer.body += part
            elif kind == b"e":
                break
            else:
                raise ConnectionError(f"a frame {kind} within a reply: {part[:200]}")
        return answer


@contextlib.contextmanager
def runner(flavor, model, **environ):
    """An instance that scores a model without Python."""
    import onnxruntime

    program = REPOSITORY / "bin" / "lapis-runner"
    assert program.exists(), "make build makes it"
    library = pathlib.Path(onnxruntime.__file__).parent / "capi"
    instance = Instance({"LAPIS_GROUP_FLAVOR": flavor, "LAPIS_GROUP_MODEL": str(model), "LAPIS_GROUP_MODEL_REF": "m:1", "LAPIS_GROUP_LIBRARY": str(library), **environ}, command=[program])
    try:
        yield instance
    finally:
        instance.stop()


class Peer:
    """A server of others in a process of its own, on a port of its own."""

    def __init__(self, command, environ=None, port=None, probe="/"):
        if port is None:
            with socket.socket() as s:
                s.bind(("127.0.0.1", 0))
                port = s.getsockname()[1]
        self.port = port
        self.folder = tempfile.TemporaryDirectory(prefix="peer")
        self.log = pathlib.Path(self.folder.name) / "log"
        with self.log.open("wb") as out:
            self.process = subprocess.Popen(
                [str(c).replace("{port}", str(port)) for c in command], env={**os.environ, **(environ or {})},
                stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True,
            )
        try:
            self.ready(probe)
        except BaseException:
            self.stop()
            raise

    def ready(self, probe):
        deadline = time.monotonic() + START
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise NotStarted(self.log.read_text())
            with contextlib.suppress(OSError, http.client.HTTPException):
                self.ask("GET", probe, [], b"")
                return
            time.sleep(0.05)
        raise NotStarted(f"not ready within {START} s: {self.log.read_text()}")

    def ask(self, method, target, headers, body, timeout=60):
        return over_http(self.port, method, target, headers, body, timeout)

    def stop(self):
        if self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        self.folder.cleanup()


class Deployed:
    """A deployment, asked through the gateway with a key.

    What the gateway makes of an answer is taken back: the status of a model that
    failed is 424 to the caller, and the model's own is in a header.
    """

    OWN = {"azureml-model-deployment", "ms-azureml-model-error-statuscode", "ms-azureml-model-error-reason", "x-aml-reason"}

    def __init__(self, uri, key, name):
        at = urllib.parse.urlparse(uri)
        self.port, self.prefix, self.key, self.name = at.port, at.path.removesuffix("/score"), key, name
        self.service = self.prefix.rsplit("/", 1)[-1]  # what its documents call it

    def ask(self, method, target, headers, body, timeout=120):
        own = [("Authorization", f"Bearer {self.key}"), ("azureml-model-deployment", self.name)]
        a = over_http(self.port, method, self.prefix + target, [*headers, *own], body, timeout)
        assert a.all("azureml-model-deployment") == [self.name], a
        told = a.all("ms-azureml-model-error-statuscode")
        assert (a.status == 424) == bool(told) and (told or a.status < 400), a
        return Answer(int(told[0]) if told else a.status, [(n, v) for n, v in a.headers if n.lower() not in self.OWN], a.body)


def forwarded(headers):
    """The headers of a request as the gateway passes them on: it gives the request an id of its own, and keeps 40 harmless characters of the caller's."""
    out = []
    for name, value in headers:
        if name.lower() == "x-ms-client-request-id":
            value = re.sub("[^A-Za-z0-9_-]", "", value)[:40]
            if not value:
                continue
        if name.lower() != "x-request-id":
            out.append((name, value))
    return out


def over_http(port, method, target, headers, body, timeout=60):
    """Send a request with these headers and no others but Host and Content-Length."""
    conn = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        conn.putrequest(method, target, skip_host=True, skip_accept_encoding=True)
        for name, value in headers:
            conn.putheader(name, value)
        names = {name.lower() for name, _ in headers}
        if "host" not in names:
            conn.putheader("Host", "localhost")
        if "content-length" not in names and (body or method not in ("GET", "HEAD", "OPTIONS")):
            conn.putheader("Content-Length", str(len(body)))
        conn.endheaders(body or None)
        reply = conn.getresponse()
        return Answer(reply.status, reply.getheaders(), reply.read())
    finally:
        conn.close()
