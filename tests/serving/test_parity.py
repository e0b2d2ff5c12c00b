"""The same scripts and models served by Lapis and by the servers that people
use today: the same requests, and the same answers.

LAPIS_CASES says how many requests each script and model gets, LAPIS_SEED with
which they are drawn. LAPIS_CASE=17 plays the 17th of them alone. What differs and may is
in allowed.py.
"""

import ast
import collections
import dataclasses
import json
import math
import os
import pathlib
import random
import re
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import allowed  # noqa: E402
import cases  # noqa: E402
import models  # noqa: E402
from instances import Answer, Instance, Peer, over_http, runner  # noqa: E402

HERE = pathlib.Path(__file__).parent
SEED = int(os.environ.get("LAPIS_SEED") or 1)
CASES = int(os.environ.get("LAPIS_CASES") or 60)
ONLY = os.environ.get("LAPIS_CASE")

# The headers that are no promise to the caller: they belong to the connection
# or to the server's make.
UNPROMISED = {"connection", "content-length", "date", "server", "transfer-encoding", "keep-alive"}

GUID = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


@dataclasses.dataclass
class Difference:
    call: str
    where: str
    theirs: str
    ours: str

    def __str__(self):
        return f"{self.call}\n    {self.where}: theirs {self.theirs[:700]}\n    {' ' * len(self.where)}  ours   {self.ours[:700]}"


def seen(case, answer: Answer):
    """Return what an answer promises, by name."""
    headers = collections.defaultdict(list)
    for name, value in answer.headers:
        if name.lower() not in UNPROMISED:
            headers["header " + name.lower()].append(value)
    given = {value for _, value in case.headers}
    for name, values in headers.items():
        if name == "header x-ms-run-fn-exec-ms":
            headers[name] = ["a number" if re.fullmatch(r"\d+\.\d{3}", values[0]) else values[0]]
        # Made up by the server, unless the caller gave one.
        if name in ("header x-request-id", "header x-ms-request-id") and values[0] not in given and GUID.fullmatch(values[0]):
            headers[name] = ["a GUID"]
        if name == "header allow":
            headers[name] = [", ".join(sorted(values[0].replace(" ", "").split(",")))]
        # Where a redirect leads is an absolute address of the server that was asked.
        if name == "header location":
            headers[name] = [re.sub(r"^http://[^/]*", "", values[0])]
    body = b"" if case.method == "HEAD" else answer.body
    return {"status": str(answer.status), "body": repr(body), **{name: repr(values) for name, values in headers.items()}}


def numbers(theirs, ours):
    """Tell whether two bodies, as seen, are the same JSON, but for the last digits of numbers."""
    try:
        return alike(*(json.loads(ast.literal_eval(text)) for text in (theirs, ours)))
    except (ValueError, SyntaxError, TypeError):
        return False


def alike(a, b):
    if isinstance(a, float) and isinstance(b, float):
        return math.isclose(a, b, rel_tol=2e-6) or a == b or a != a and b != b
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(alike, a, b))
    if isinstance(a, dict) and isinstance(b, dict):
        return list(a) == list(b) and all(map(alike, a.values(), b.values()))
    return type(a) is type(b) and a == b


def compared(name, theirs, ours, draw, entries, number=CASES, same=None):
    """Ask both the same, and return the differences that nothing allows.

    same tells of two bodies, as seen, whether they may be taken for equal.
    """
    used, unexplained = collections.Counter(), []
    for i in range(number):
        rng = random.Random(f"{SEED}-{name}-{i}")
        case = draw(name, rng)
        if ONLY and int(ONLY) != i:
            continue
        a, b = (seen(case, ask(case)) for ask in (theirs, ours))
        for where in sorted(a.keys() | b.keys()):
            if a.get(where) == b.get(where) or same and where == "body" and where in a and where in b and same(a[where], b[where]):
                continue
            d = Difference(f"{name} #{i}: {case}", where, a.get(where, "none"), b.get(where, "none"))
            entry = next((e for e in entries if e.matches(d)), None)
            if entry is None:
                unexplained.append(d)
            else:
                used[entry.reason] += 1
    print(f"{name}: {number} requests with LAPIS_SEED={SEED}")
    for entry in entries:
        count = used[entry.reason]
        if count:
            print(f"  {count} differ: {entry.reason}")
        if count > max(3, entry.most * number / 1000):
            unexplained.append(f"{count} of {number} differ, and {entry.most} of a thousand are allowed: {entry.reason}")
    return unexplained


def agree(*question, **how):
    different = compared(*question, **how)
    assert not different, f"{len(different)} differences:\n" + "\n".join(map(str, telling(different)))


def telling(different):
    """Return some of the differences: two of each kind."""
    kinds = collections.Counter()
    for d in different:
        kind = (d.where, d.theirs[:40], d.ours[:40]) if isinstance(d, Difference) else d
        kinds[kind] += 1
        if kinds[kind] <= 2 and len(kinds) <= 12:
            yield d


def apart(answer):
    """Return an answer of MLflow's with the message of an error beside its body, as a header is, and without where it arose."""
    try:
        body = json.loads(answer.body)
        said = body.pop("message")
    except (ValueError, TypeError, KeyError, AttributeError):
        return answer
    traced = body.pop("stack_trace", None) is not None
    return Answer(answer.status, [*answer.headers, ("message", said)], json.dumps({**body, "stack_trace": traced}).encode())


def asking(server):
    return lambda case: server.ask(case.method, case.target, case.headers, case.body)


AZURE = [pathlib.Path(sys.executable).parent / "azmlinfsrv", "--port", "{port}"]


@pytest.fixture
def serving(tmp_path):
    """A function that serves a script's folder by both, and returns both."""
    started = []

    def serve(folder, **environ):
        environ = {"AML_APP_ROOT": str(folder), "AZUREML_ENTRY_SCRIPT": "score.py", **environ}
        for make in (lambda: Peer([*AZURE, "--entry_script", folder / "score.py"], environ), lambda: Instance({"LAPIS_GROUP_FLAVOR": "script", "WORKER_COUNT": "1", **environ})):
            started.append(make())
        return started

    yield serve
    for server in started:
        server.stop()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", cases.SCRIPTS)
def test_a_script_is_answered_as_the_azure_inference_server_answers_it(serving, name):
    theirs, ours = serving(HERE / "scripts" / name)
    agree(name, asking(theirs), asking(ours), cases.for_script, allowed.SCRIPTS)


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The models, made once: name → folder."""
    root = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, HERE / "models.py", root], check=True, capture_output=True, timeout=240)
    return {path.name: path for path in sorted(root.iterdir())}


@pytest.fixture(scope="session")
def mlflow(folders):
    """MLflow's own application for all models: folder → port."""
    peer = subprocess.Popen(
        [sys.executable, HERE / "peers.py", "mlflow", *folders.values()], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONHASHSEED": "0"}, text=True,
    )
    try:
        yield json.loads(peer.stdout.readline())
    finally:
        peer.stdin.close()
        peer.wait(30)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", cases.COLUMNS)
def test_a_model_is_answered_as_mlflow_answers_it(folders, mlflow, name):
    folder = folders[name]
    # Sets are printed in messages: in one order for both.
    ours = Instance({"LAPIS_GROUP_FLAVOR": "mlflow", "LAPIS_GROUP_MODEL": str(folder), "PYTHONHASHSEED": "0"})
    try:
        agree(name, lambda c: over_http(mlflow[str(folder)], c.method, c.target, c.headers, c.body), asking(ours), cases.for_model, allowed.MODELS)
    finally:
        ours.stop()


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", models.NATIVE)
def test_a_model_is_answered_without_python_as_mlflow_answers_it(folders, mlflow, name):
    folder = folders[name]
    with runner(models.NATIVE[name], folder) as ours:
        theirs = lambda c: apart(over_http(mlflow[str(folder)], c.method, c.target, c.headers, c.body))  # noqa: E731
        agree(name, theirs, lambda c: apart(asking(ours)(c)), cases.for_native, allowed.NATIVE, same=numbers)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", ["forest", "bare", "tensor", "named", "params", "optional", "typed", "replies"])
def test_a_model_is_answered_in_azures_form_as_the_azure_inference_server_answers_it(folders, name):
    folder = str(folders[name])
    theirs = Peer([*AZURE, "--entry_script", HERE / "nocode.py"], {"AZUREML_MODEL_DIR": folder, "AML_APP_ROOT": folder})
    try:
        ours = Instance({"LAPIS_GROUP_FLAVOR": "mlflow", "LAPIS_GROUP_MODEL": folder})
        try:
            agree(name, asking(theirs), asking(ours), cases.for_input_data, allowed.INPUT_DATA)
        finally:
            ours.stop()
    finally:
        theirs.stop()
