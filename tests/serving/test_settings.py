"""The settings of the Azure inference server, and scripts that it does not
start: Lapis goes by the same, and starts the same."""

import json
import os
import pathlib
import random
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parent))

from cases import JSON, Case  # noqa: E402
from instances import Instance, NotStarted, Peer  # noqa: E402
from test_parity import AZURE, SEED, agree, asking  # noqa: E402

ECHO = "import json, os, time\ndef init(): pass\ndef run(data):\n    if data == 'slow':\n        time.sleep(4)\n    return data\n"

# name → (files beside the script, variables)
SETTINGS = {
    "one origin": ({}, {"AML_CORS_ORIGINS": "http://a.example"}),
    "two origins": ({}, {"AML_CORS_ORIGINS": "http://b.example, http://a.example"}),
    "any origin": ({}, {"AML_CORS_ORIGINS": "*"}),
    "a short time-out": ({}, {"SCORING_TIMEOUT_MS": "2000", "SERVER_VERSION_LOG_RESPONSE_ENABLED": "false"}),
    "a time-out of 0": ({}, {"SCORING_TIMEOUT_MS": "0", "SERVICE_PATH_PREFIX": "/a/b/", "SERVICE_VERSION": "7"}),
    "a settings file": ({"config.json": '{"SERVICE_NAME": "named", "SCORING_TIMEOUT_MS": "90000", "unknown": 1}'}, {}),
    "a variable before the file": ({"config.json": '{"SERVICE_NAME": "named"}'}, {"SERVICE_NAME": "other"}),
    "documents of the user's": ({"swagger.json": '{"mine": 2}', "swagger3.json": '{"mine": 3}'}, {}),
    "an empty document": ({"swagger.json": "{}", "swagger2.json": '{"mine": 2}', "swagger3.1.json": '{"mine": 3.1}'}, {}),
}

# name → (files, variables); none of them starts
BROKEN = {
    "a package is missing": ({"score.py": "import nope_nope\n"}, {}),
    "init raises": ({"score.py": "def init(): raise ValueError('x')\ndef run(x): return x\n"}, {}),
    "the script ends itself": ({"score.py": "import sys\nsys.exit(0)\n"}, {}),
    "no init": ({"score.py": "def run(x): return x\n"}, {}),
    "a run that takes anything": ({"score.py": "def init(): pass\ndef run(*x): return x\n"}, {}),
    "a run that takes nothing but headers": ({"score.py": "def init(): pass\ndef run(request_headers): return 1\n"}, {}),
    "a time-out that is no number": ({"score.py": ECHO}, {"SCORING_TIMEOUT_MS": "soon"}),
    "a settings file that is no object": ({"score.py": ECHO, "config.json": "[1]"}, {}),
    "a document that is no JSON": ({"score.py": ECHO, "swagger.json": "{"}, {}),
}


def written(folder, files):
    for name, text in files.items():
        (folder / name).write_text(text)
    return folder


def started(make):
    """Start a server: it, or None when it does not start."""
    try:
        return make()
    except NotStarted:
        return None


def both(folder, variables):
    environ = {"AML_APP_ROOT": str(folder), "AZUREML_ENTRY_SCRIPT": "score.py", **variables}
    return [
        started(lambda: Peer([*AZURE, "--entry_script", folder / "score.py"], environ)),
        started(lambda: Instance({"LAPIS_GROUP_FLAVOR": "script", "WORKER_COUNT": "1", **environ})),
    ]


def draw(name, rng):
    """Draw a request that shows a setting."""
    headers = [("User-Agent", "parity")]
    if rng.random() < 0.6:
        headers.append(("Origin", rng.choice(["http://a.example", "http://b.example", "HTTP://A.EXAMPLE", "http://evil.example", "null", ""])))
    method = rng.choice(["POST", "POST", "GET", "OPTIONS"])
    if method == "OPTIONS" and rng.random() < 0.8:
        headers.append(("Access-Control-Request-Method", rng.choice(["POST", "GET", "PUT", ""])))
        if rng.random() < 0.6:
            headers.append(("Access-Control-Request-Headers", rng.choice(["authorization, content-type", "X-B,X-A", ""])))
    if method == "POST":
        headers.append(("Content-Type", JSON))
    target = rng.choice(["/score", "/score", "/", "/swagger.json", "/swagger.json?version=3", "/swagger.json?version=3.1", "/nope"])
    body = rng.choice([b"x", b"\xff", json.dumps({"a": [1]}).encode()])
    if name == "a short time-out" and rng.random() < 0.2:
        body = b"slow"
    return Case(method, target, headers, body if method == "POST" else b"")


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", SETTINGS)
def test_a_setting_is_gone_by(tmp_path, name):
    files, variables = SETTINGS[name]
    servers = both(written(tmp_path, {"score.py": ECHO, **files}), variables)
    try:
        theirs, ours = servers
        agree(name, asking(theirs), asking(ours), draw, [], 80)
    finally:
        for server in servers:
            if server is not None:
                server.stop()


# What the other server does with a broken script takes seconds each: some of
# them are looked at, others each time; ours is asked for all.
LOOKED_AT = set(random.Random(SEED).sample(sorted(BROKEN), len(BROKEN) if os.environ.get("LAPIS_SOAK") else 3))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", BROKEN)
def test_what_cannot_serve_does_not_start(tmp_path, name):
    files, variables = BROKEN[name]
    folder = written(tmp_path, files)
    environ = {"AML_APP_ROOT": str(folder), "AZUREML_ENTRY_SCRIPT": "score.py", **variables}
    makers = [lambda: Instance({"LAPIS_GROUP_FLAVOR": "script", **environ})]
    if name in LOOKED_AT:
        makers.append(lambda: Peer([*AZURE, "--entry_script", folder / "score.py"], environ))
    for make in makers:
        server = started(make)
        if server is not None:
            server.stop()
            pytest.fail("it starts")
