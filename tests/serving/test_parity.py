"""The same scripts and models served by Lapis and by the servers that people
use today: the same requests, and the same answers. With Lapis they are deployed
by the SDK and asked through the gateway, with a key.

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
import secrets
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

import allowed  # noqa: E402
import cases  # noqa: E402
import models  # noqa: E402
from instances import Answer, Deployed, Peer, forwarded, over_http  # noqa: E402

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
    # Stack traces name the environment that the server runs in.
    body = re.sub(rb'File \\"[^"]*?/site-packages/', rb'File \\"', body)
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


@pytest.fixture(scope="module")
def endpoint(ml):
    """An endpoint, and its key."""
    from azure.ai.ml.entities import ManagedOnlineEndpoint

    name = "parity-" + secrets.token_hex(3)
    ml.online_endpoints.begin_create_or_update(ManagedOnlineEndpoint(name=name, auth_mode="key")).result()
    yield ml.online_endpoints.get(name), ml.online_endpoints.get_keys(name).primary_key
    ml.online_endpoints.begin_delete(name).result()


@pytest.fixture(scope="module")
def packages(ml):
    """An environment with the packages that the other servers run with."""
    from azure.ai.ml.entities import Environment

    lines = (HERE.parent / "requirements-serving.txt").read_text().splitlines()
    pinned = [line for line in lines if line and not line.startswith("#")]
    version = "{}.{}".format(*sys.version_info[:2])
    made = ml.environments.create_or_update(Environment(
        name="parity-" + secrets.token_hex(3), image="mcr.microsoft.com/azureml/openmpi4.1.0-ubuntu22.04",
        conda_file={"name": "parity", "dependencies": [f"python={version}", {"pip": pinned}]},
    ))  # fmt: skip
    return f"{made.name}:{made.version}"


@pytest.fixture(scope="module")
def deploy(ml, endpoint):
    """Two functions: one makes a deployment and returns it, the other removes it."""
    from azure.ai.ml.entities import ManagedOnlineDeployment, OnlineRequestSettings

    made, key = endpoint

    def add(name, **settings):
        name = "d-" + name.replace("_", "-")
        ml.online_deployments.begin_create_or_update(ManagedOnlineDeployment(
            name=name, endpoint_name=made.name, instance_type="Standard_DS3_v2", instance_count=1, request_settings=OnlineRequestSettings(request_timeout_ms=90000), **settings,
        )).result()  # fmt: skip
        return Deployed(made.scoring_uri, key, name)

    def remove(deployed):
        ml.online_deployments.begin_delete(deployed.name, made.name).result()

    return add, remove


@pytest.fixture(scope="module")
def script(request, deploy, packages):
    """A deployment of a script, and its name."""
    from azure.ai.ml.entities import CodeConfiguration

    add, remove = deploy
    served = add(request.param, code_configuration=CodeConfiguration(code=str(HERE / "scripts" / request.param), scoring_script="score.py"), environment=packages)
    yield request.param, served
    remove(served)


@pytest.fixture(scope="module")
def model(request, deploy, packages, folders):
    """A deployment of a model, and its name; of those that are scored without Python, without an environment."""
    from azure.ai.ml.entities import Model

    add, remove = deploy
    name, native = request.param
    # Sets are printed in messages: in one order for both.
    python = {} if native else {"environment": packages, "environment_variables": {"PYTHONHASHSEED": "0"}, "properties": {"serving.tier": "python"}}
    served = add(("n-" if native else "m-") + name, model=Model(path=folders[name], type="mlflow_model"), **python)
    yield name, served
    remove(served)


def through(ask):
    """Ask another server as the gateway asks an instance."""
    return lambda case: ask(dataclasses.replace(case, headers=forwarded(case.headers)))


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("script", cases.SCRIPTS, indirect=True)
def test_a_script_is_answered_as_the_azure_inference_server_answers_it(script):
    name, ours = script
    folder = HERE / "scripts" / name
    theirs = Peer([*AZURE, "--entry_script", folder / "score.py"], {"AML_APP_ROOT": str(folder), "AZUREML_ENTRY_SCRIPT": "score.py", "SERVICE_NAME": ours.service})
    try:
        agree(name, through(asking(theirs)), asking(ours), cases.for_script, allowed.SCRIPTS)
    finally:
        theirs.stop()


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """The models, made once: name → folder."""
    root = tmp_path_factory.mktemp("models")
    subprocess.run([sys.executable, HERE / "models.py", root], check=True, capture_output=True, timeout=900)
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


def over(port):
    return lambda case: over_http(port, case.method, case.target, case.headers, case.body)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", [(name, False) for name in cases.COLUMNS], ids=lambda m: m[0], indirect=True)
def test_a_model_is_answered_as_mlflow_answers_it(model, folders, mlflow):
    name, ours = model
    agree(name, through(over(mlflow[str(folders[name])])), asking(ours), cases.for_model, allowed.MODELS)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", [(name, True) for name in models.NATIVE], ids=lambda m: m[0], indirect=True)
def test_a_model_is_answered_without_python_as_mlflow_answers_it(model, folders, mlflow):
    name, ours = model
    theirs = through(over(mlflow[str(folders[name])]))
    agree(name, lambda c: apart(theirs(c)), lambda c: apart(asking(ours)(c)), cases.for_native, allowed.NATIVE, same=numbers)


@pytest.mark.timeout(1200)
@pytest.mark.parametrize("model", [(name, False) for name in ["forest", "bare", "tensor", "named", "params", "optional", "typed", "replies"]], ids=lambda m: m[0], indirect=True)
def test_a_model_is_answered_in_azures_form_as_the_azure_inference_server_answers_it(model, folders):
    name, ours = model
    folder = str(folders[name])
    theirs = Peer([*AZURE, "--entry_script", HERE / "nocode.py"], {"AZUREML_MODEL_DIR": folder, "AML_APP_ROOT": folder, "SERVICE_NAME": ours.service})
    try:
        agree(name, through(asking(theirs)), asking(ours), cases.for_input_data, allowed.INPUT_DATA)
    finally:
        theirs.stop()
