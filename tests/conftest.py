"""What the suites share: a client set up by the environment alone, names, and
servers of their own for tests that stop and start them.

The shell that runs the suites has done `eval "$(lapis connect)"` and nothing
else (run.sh).
"""

import itertools
import os
import pathlib
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time

import pytest
import requests
from azure.ai.ml import VERSION, MLClient
from azure.identity import DefaultAzureCredential

# The version of the SDK, as in (1, 35, 2).
SDK = tuple(int(part) for part in VERSION.split(".")[:3])

HERE = pathlib.Path(__file__).parent
EXAMPLES = HERE.parent / "examples"
ENDED = {"Completed", "Failed", "Canceled"}

# An image without packages: the nearest Python, ready at once.
PLAIN = "library/python:latest"

_session = secrets.token_hex(3)
_count = itertools.count()


@pytest.fixture
def unique():
    """A function that makes a name of its own: "data" becomes "data-1f9c2e-4"."""
    return lambda name: f"{name}-{_session}-{next(_count)}"


def workspace_client():
    return MLClient(
        DefaultAzureCredential(),
        os.environ["AZUREML_ARM_SUBSCRIPTION"],
        os.environ["AZUREML_ARM_RESOURCEGROUP"],
        os.environ["AZUREML_ARM_WORKSPACE_NAME"],
    )


@pytest.fixture(scope="session")
def ml():
    """The unmodified client."""
    return workspace_client()


@pytest.fixture(scope="session")
def cpu(ml):
    """The name of a compute cluster."""
    from azure.ai.ml.entities import AmlCompute

    ml.compute.begin_create_or_update(AmlCompute(name="cpu", size="STANDARD_DS2_V2", min_instances=0, max_instances=4)).result()
    return "cpu"


@pytest.fixture(scope="session")
def finish(ml):
    """A function that waits for a job's end and returns the job."""

    def wait(job, within=120):
        deadline = time.monotonic() + within
        while True:
            found = ml.jobs.get(job.name)
            if found.status in ENDED:
                return found
            if time.monotonic() > deadline:
                pytest.fail(f"{job.name} is still {found.status} after {within} s")
            time.sleep(0.2)

    return wait


@pytest.fixture
def printed(ml, finish, tmp_path):
    """A function that returns what a job printed, once it has completed."""

    def read(job):
        ended = finish(job)
        ml.jobs.download(job.name, download_path=tmp_path / job.name)
        log = (tmp_path / job.name / "artifacts" / "user_logs" / "std_log.txt").read_text()
        assert ended.status == "Completed", log
        return log

    return read


@pytest.fixture
def traffic(monkeypatch):
    """The requests that the clients of this process send from now on, as
    (method, URL)."""
    seen = []
    send = requests.Session.send

    def record(session, request, **settings):
        seen.append((request.method, request.url))
        return send(session, request, **settings)

    monkeypatch.setattr(requests.Session, "send", record)
    return seen


class REST:
    """Plain HTTP against the server that the environment names."""

    def __init__(self, environ=os.environ):
        self.base = environ["ARM_CLOUD_METADATA_URL"].split("/metadata/")[0]
        self.environ = environ
        self.scope = "/subscriptions/{}/resourceGroups/{}/providers/Microsoft.MachineLearningServices/workspaces/{}".format(
            environ["AZUREML_ARM_SUBSCRIPTION"], environ["AZUREML_ARM_RESOURCEGROUP"], environ["AZUREML_ARM_WORKSPACE_NAME"]
        )
        self.session = requests.Session()
        self.session.trust_env = False
        self.session.verify = environ["REQUESTS_CA_BUNDLE"]
        self.token = self.sign_in()

    def sign_in(self, scope=None):
        reply = self.session.post(
            f"{self.environ['AZURE_AUTHORITY_HOST']}/{self.environ['AZURE_TENANT_ID']}/oauth2/v2.0/token",
            data={
                "grant_type": "client_credentials",
                "client_id": self.environ["AZURE_CLIENT_ID"],
                "client_secret": self.environ["AZURE_CLIENT_SECRET"],
                "scope": scope or f"{self.base}/.default",
            },
        )
        reply.raise_for_status()
        return reply.json()["access_token"]

    def __call__(self, method, path, version="2023-04-01-preview", token=None, **settings):
        """Send a request; a path without a leading slash is one of the workspace."""
        if not path.startswith("/"):
            path = f"{self.scope}/{path}"
        headers = {"Authorization": f"Bearer {token or self.token}", **settings.pop("headers", {})}
        headers = {k: v for k, v in headers.items() if v is not None}
        params = {**({"api-version": version} if version else {}), **settings.pop("params", {})}
        return self.session.request(method, self.base + path, headers=headers, params=params, **settings)


@pytest.fixture(scope="session")
def rest():
    return REST()


class Server:
    """A server of a test's own, that may be killed and started again."""

    def __init__(self, data, slots=4, flags=(), environ=None):
        self.data = pathlib.Path(data)
        self.slots = slots
        self.flags = flags
        self.started_in = environ
        with socket.socket() as s:
            s.bind(("localhost", 0))
            self.port = s.getsockname()[1]
        self.process = None
        self.start()

    def start(self, within=20):
        said = self.data.parent / "up.txt"
        with said.open("ab") as out:
            self.process = subprocess.Popen(
                ["lapis", "up", "--data", self.data, "--listen", f"localhost:{self.port}", "--slots", str(self.slots), *self.flags],
                env=self.started_in, stdout=out, stderr=out, start_new_session=True,
            )
        deadline = time.monotonic() + within
        while time.monotonic() < deadline:
            try:
                if requests.get(f"http://localhost:{self.port}/healthz", timeout=5, proxies={"http": ""}).ok:
                    return
            except requests.RequestException:
                pass
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise RuntimeError(f"the server is not ready: {said.read_text()}")

    def kill(self):
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()

    def stop(self):
        subprocess.run(["lapis", "down", "--jobs", "--data", self.data], capture_output=True, timeout=60)
        if self.process.poll() is None:
            self.kill()

    def environ(self):
        """The variables of a shell after `eval "$(lapis connect)"`."""
        script = f'eval "$(lapis connect --unset)" && eval "$(lapis connect --data {self.data})" && env -0'
        out = subprocess.run(["bash", "-c", script], check=True, capture_output=True).stdout
        return dict(pair.split("=", 1) for pair in out.decode().split("\0") if pair)


@pytest.fixture
def server(tmp_path):
    s = Server(tmp_path / "data")
    yield s
    s.stop()


def python(code, environ, **settings):
    """Start a Python client in a connected shell's environment."""
    return subprocess.Popen(
        [sys.executable, "-u", "-c", code], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **settings
    )


def lapis(*args, check=True):
    """Run the command line; returns what it did."""
    done = subprocess.run([shutil.which("lapis"), *args], capture_output=True, text=True, timeout=120)
    if check:
        assert done.returncode == 0, f"lapis {' '.join(map(str, args))}\n{done.stdout}{done.stderr}"
    return done
