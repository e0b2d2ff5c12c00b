"""Online deployments while what stands behind them dies: the server, in the
middle of each step, and the gateway."""

import os
import pathlib
import random
import signal
import subprocess
import time

import pytest
import requests

from conftest import REST, Server
from load import Load

SCORE = """
import os
def init(): pass
def run(data): return {"says": %r, "pid": os.getpid()}
"""

ENDPOINT = "name: %s\nauth_mode: key\n"

DEPLOYMENT = """
name: blue
endpoint_name: %s
code_configuration: {code: %s, scoring_script: score.py}
environment: {image: library/python:latest}
instance_type: Standard_DS2_v2
instance_count: %d
request_settings: {max_concurrent_requests_per_instance: 8, request_timeout_ms: 60000}
"""


class World:
    """A server with one endpoint."""

    def __init__(self, server, tmp):
        self.server, self.tmp, self.name = server, tmp, "crash"
        self.environ = server.environ()
        self.rest = REST(self.environ)
        (tmp / "endpoint.yml").write_text(ENDPOINT % self.name)
        self.run("online-endpoint", "create", "-f", tmp / "endpoint.yml")
        self.key = self.rest("POST", self.path("listKeys")).json()["primaryKey"]

    def path(self, more=""):
        return f"onlineEndpoints/{self.name}" + (f"/{more}" if more else "")

    def run(self, *words):
        done = subprocess.run(["lapis", *map(str, words)], env=self.environ, capture_output=True, text=True, timeout=180)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def file(self, says, count=1):
        code = self.tmp / f"code-{says}"
        code.mkdir(exist_ok=True)
        (code / "score.py").write_text(SCORE % says)
        file = self.tmp / f"{says}.yml"
        file.write_text(DEPLOYMENT % (self.name, code, count))
        return file

    def create(self, says, count=1, wait=True):
        words = ["online-deployment", "create", "-f", self.file(says, count)]
        if wait:
            return self.run(*words, "--all-traffic")
        return subprocess.Popen(["lapis", *map(str, words)], env=self.environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    @property
    def uri(self):
        return self.rest("GET", self.path()).json()["properties"]["scoringUri"]

    def state(self):
        reply = self.rest("GET", self.path("deployments/blue"))
        return reply.json()["properties"]["provisioningState"] if reply.ok else reply.status_code

    def until(self, check, within=90):
        deadline = time.monotonic() + within
        while not (found := check()):
            assert time.monotonic() < deadline, "it has not come to that"
            time.sleep(0.05)
        return found

    def load(self, clients=3):
        uri, headers = self.uri, {"Authorization": f"Bearer {self.key}"}
        return Load(lambda session: session.post(uri, json=1, headers=headers, timeout=60), clients)

    def groups(self):
        """The processes at the head of the groups of this server."""
        found = []
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                env = (p / "environ").read_bytes().split(b"\0")
                args = (p / "cmdline").read_bytes()
                parent = int((p / "stat").read_text().rsplit(")", 1)[1].split()[1])
                above = pathlib.Path(f"/proc/{parent}/cmdline").read_bytes()
            except (OSError, IndexError):
                continue
            if b"lapis_group.py" in args and b"lapis_group.py" not in above and any(v.startswith(b"LAPIS_TASK_DIR=" + bytes(self.server.data)) for v in env):
                found.append(int(p.name))
        return found

    def workers(self, pid):
        """How many processes the group of that pid has begun."""
        found = 0
        for p in pathlib.Path("/proc").glob("[0-9]*"):
            try:
                found += int((p / "stat").read_text().rsplit(")", 1)[1].split()[1]) == pid
            except (OSError, IndexError):
                pass
        return found


@pytest.fixture
def world(server, tmp_path):
    w = World(server, tmp_path)
    yield w
    subprocess.run(["lapis", "down", "--data", server.data], capture_output=True, timeout=60)
    assert w.until(lambda: not w.groups()), "groups are left when all is down"


def test_a_restart_of_the_server_fails_no_request(world):
    world.create("one", 2)
    groups = world.groups()
    with world.load() as load:
        load.more("one")
        for kill in (world.server.kill, world.server.kill):
            kill()
            load.more("one")
            world.server.start()
            load.more("one")
        world.create("two", 2)  # and it is the master again
        load.more("two")
    assert not load.failed, load.failed[:3]
    # The one that was replaced is kept, for a rollback.
    assert world.until(lambda: len(world.groups()) == 2) and set(groups) < set(world.groups())


def test_a_server_killed_at_any_moment_of_an_update_goes_on_with_it(world):
    rng = random.Random(7)
    world.create("v0")
    with world.load() as load:
        for round in range(1, 7):
            says = f"v{round}"
            client = world.create(says, wait=False)
            time.sleep(rng.uniform(0.2, 1.5))
            world.server.kill()
            client.kill()
            client.wait()
            world.server.start()
            # The request may not have come that far.
            world.until(lambda: world.state() in ("Succeeded", "Failed"))
            world.create(says)
            load.more(says, 20)
            old = sum(n for v, n in load.said.items() if v != says)
            load.more(says, 20)
            assert sum(n for v, n in load.said.items() if v != says) == old
    assert not load.failed, load.failed[:3]
    assert world.until(lambda: len(world.groups()) == 2)  # the live one and the one before


def test_what_an_update_replaced_comes_back_from_its_own_group_after_a_crash_too(world):
    world.create("one")
    first = world.groups()
    world.create("two")
    world.server.kill()
    world.server.start()
    with world.load() as load:
        load.more("two", 5)
        assert set(first) < set(world.groups())
        reply = world.rest("POST", world.path("deployments/blue/rollback"))
        assert reply.status_code == 202, reply.text
        load.more("one", 20)
        (pid,) = first
        assert pid in world.groups(), "the version before was started anew"
        # Whose instance goes, once that of the other is there.
        world.until(lambda: [p for p in world.groups() if world.workers(p)] == [pid])
        world.server.kill()
        world.server.start()
        world.create("three")
        load.more("three", 5)
        # Only the last of those that were replaced is kept.
        world.until(lambda: len(world.groups()) == 2)
        assert pid in world.groups()
    assert not load.failed, load.failed[:3]
    assert world.rest("DELETE", world.path("deployments/blue")).status_code in (400, 409)  # it has traffic
    world.run("online-endpoint", "delete", "--name", world.name, "--yes")
    world.until(lambda: not world.groups())


def test_a_group_that_is_killed_comes_back(world):
    world.create("one")
    (pid,) = world.groups()
    os.kill(pid, signal.SIGKILL)
    world.until(lambda: world.groups() and world.groups() != [pid])

    def answers():
        reply = requests.post(world.uri, json=1, headers={"Authorization": f"Bearer {world.key}"}, timeout=60, proxies={"http": ""})
        return reply.ok

    world.until(answers)


def test_what_down_has_stopped_the_next_start_brings_back(world):
    world.create("one")
    subprocess.run(["lapis", "down", "--data", world.server.data], check=True, capture_output=True, timeout=60)
    world.server.process.wait()
    assert not world.groups()
    world.server.start()
    with world.load(1) as load:
        load.more("one", 1)


def test_more_instances_than_there_are_slots_are_refused_and_what_serves_goes_on(tmp_path):
    server = Server(tmp_path / "data", flags=("--instances", "2"))
    try:
        world = World(server, tmp_path)
        world.create("one", 2)
        done = subprocess.run(["lapis", "online-deployment", "create", "-f", world.file("two", 3)], env=world.environ, capture_output=True, text=True)
        assert done.returncode != 0 and "No slot is free for 3 instances" in done.stderr, done
        with world.load(1) as load:
            load.more("one", 3)
        assert not load.failed
    finally:
        server.stop()
