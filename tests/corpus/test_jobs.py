"""Command jobs of the corpus, run as they are: their YAML, our code.

The corpus has people's YAML and none of their code, so short programs of ours
(standins/) stand where theirs would. What lies on other machines (a public
data set) is made here and named by --set or by a datastore of its address.

LAPIS_CORPUS_JOBS is how many jobs run, or "all"; LAPIS_SEED says which.
"""

import functools
import http.server
import json
import os
import pathlib
import random
import shutil
import threading
import time

import pytest
from azure.ai.ml import load_job
from azure.identity import DefaultAzureCredential
from azure.storage.blob import BlobClient
from conftest import ENDED, lapis

HERE = pathlib.Path(__file__).parent
BASICS, SINGLE = "cli/jobs/basics/", "cli/jobs/single-step/"

# Their environments or their own installations take minutes to make; all but
# LAPIS_CORPUS_JOBS=all leaves them out.
LARGE = {
    BASICS + "hello-interactive.yml": "TensorFlow",
    BASICS + "hello-notebook.yml": "Jupyter",
    SINGLE + "lightgbm/iris/job.yml": "LightGBM",
    SINGLE + "tensorflow/mnist/job.yml": "TensorFlow",
    SINGLE + "tensorflow/mnist-distributed/job.yml": "TensorFlow",
}

# What the server does not do yet; it says so by the name of the field.
REFUSED = {"mnist-distributed/job.yml": "resources.instanceCount"}

# What a job of the name must have said or left, beyond having completed.
SAYS = {
    "hello-code.yml": ["hello-iris.py"],
    "hello-data-uri-folder.yml": ["titanic.csv"],
    "hello-dataset.yml": ["iris.csv"],
    "hello-git.yml": ["pygit2 "],
    "hello-iris-datastore-file.yml": ["sepal_length"],
    "hello-iris-datastore-folder.yml": ["iris.csv\n", "sepal_length"],
    "hello-iris-file.yml": ["sepal_length"],
    "hello-iris-folder.yml": ["iris.csv\n", "sepal_length"],
    "hello-iris-literal.yml": ["--iris-csv: http", "sepal_length"],
    "hello-model-as-input.yml": ["MLmodel"],
    "hello-model-as-output.yml": ["python_function"],
    "hello-world-env-var.yml": ["hello world"],
    "hello-world-input.yml": ["hello world\n42"],
    "hello-world-org.yml": ["hello world"],
    "hello-world.yml": ["hello world"],
    "pytorch/iris/job.yml": ["epochs"],
    "mnist-distributed/job.yml": ["worker 0 of 2"],
}
LEAVES = {
    "hello-model-as-output.yml": ["named-outputs/output_folder/MLmodel", "named-outputs/output_folder/model.pkl"],
    "hello-notebook.yml": ["artifacts/outputs/out.ipynb"],
    "hello-world-output-data.yml": ["named-outputs/hello_output/helloworld.txt"],
    "hello-world-output.yml": ["artifacts/outputs/helloworld.txt"],
    "mnist-distributed/job.yml": ["artifacts/outputs/keras-model/worker-0.txt"],
}
LOGS = {
    "hello-mlflow.yml": "hello_metric",
    "lightgbm/iris/job.yml": "accuracy",
    "pytorch/iris/job.yml": "accuracy",
}


def of(table, path):
    return next((table[name] for name in table if path.endswith("/" + name)), [])


def corpus():
    """The folder of the corpus beside the repository, or None."""
    for folder in HERE.parents:
        if (folder / "shared" / "corpus" / "runnable.tsv").is_file():
            return folder / "shared" / "corpus"


def runnable():
    """The command jobs that can run on one machine, by path."""
    if not corpus():
        return []
    rows = (line.split("\t") for line in (corpus() / "runnable.tsv").read_text().splitlines())
    return sorted(r[0] for r in rows if r[2] == "commandJob" and r[3] in {"runs", "runs-with-substitute-data"})


def chosen():
    wanted = os.environ.get("LAPIS_CORPUS_JOBS", "10")
    if wanted == "all":
        return runnable()
    small = [path for path in runnable() if path not in LARGE]
    return sorted(random.Random(os.environ.get("LAPIS_SEED", "1")).sample(small, min(int(wanted), len(small))))


def flowers():
    """A data set in the form of the iris data: a header and 150 rows."""
    shake = random.Random(0)
    lines = ["sepal_length,sepal_width,petal_length,petal_width,species"]
    for i in range(150):
        kind = i // 50
        sizes = [shake.gauss(mean, 0.3) for mean in (5 + kind, 3.1, 1.5 + 2 * kind, 0.3 + kind)]
        lines.append(",".join(f"{size:.1f}" for size in sizes) + "," + ("setosa", "versicolor", "virginica")[kind])
    return "\n".join(lines) + "\n"


@pytest.fixture(scope="session")
def tree(ml, tmp_path_factory):
    """The corpus with our code in it, and a server that has what it refers to."""
    if not corpus():
        pytest.skip("the corpus is not beside the repository")
    root = tmp_path_factory.mktemp("corpus")
    for part in ("jobs/basics", "jobs/single-step", "assets"):
        shutil.copytree(corpus() / "azureml-examples" / "cli" / part, root / "cli" / part)
    # The corpus may be read-only, and so then is its copy.
    for folder, _, _ in os.walk(root):
        os.chmod(folder, 0o755)
    shutil.copytree(HERE / "standins", root / "cli", dirs_exist_ok=True)

    for name in ("cpu-cluster", "gpu-cluster"):
        lapis("compute", "create", "--name", name, "--type", "amlcompute", "--size", "STANDARD_DS3_V2", "--max-instances", "4")
    assets = root / "cli" / "assets" / "data"
    lapis("data", "create", "-f", assets / "local-folder.yml", "--name", "local-folder-example")
    lapis("data", "create", "-f", assets / "local-folder-sampledata.yml", "--name", "sampledata")

    # The public data set: in the datastore of its address, and in the one that
    # every workspace has.
    (root / "public").mkdir()
    (root / "public" / "iris.csv").write_text(flowers())
    (root / "examples.yml").write_text("type: azure_blob\nname: examples\naccount_name: azuremlexamples\ncontainer_name: datasets\n")
    lapis("datastore", "create", "-f", root / "examples.yml")
    put = {"examples": "iris.csv", "workspaceblobstore": "example-data/iris.csv"}
    for store, path in put.items():
        upload(ml, store, path, (root / "public" / "iris.csv").read_bytes())
    return root


def upload(ml, datastore, path, content):
    """Put a blob where a job's azureml://datastores/… finds it."""
    store = ml.datastores.get(datastore)
    base = os.environ["ARM_CLOUD_METADATA_URL"].split("/metadata/")[0]
    address = f"{base}/blob/{store.account_name}/{store.container_name}/{path}"
    BlobClient.from_blob_url(address, credential=DefaultAzureCredential()).upload_blob(content, overwrite=True)


@pytest.fixture(scope="session")
def public(tree):
    """The address of a folder that anyone may read."""

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=tree / "public")) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join()


def status(name):
    return json.loads(lapis("job", "show", "--name", name).stdout)["status"]


def finish(name, within):
    deadline = time.monotonic() + within
    while (now := status(name)) not in ENDED:
        assert time.monotonic() < deadline, f"{name} is still {now} after {within} s"
        time.sleep(0.5)
    return now


@pytest.fixture(scope="session")
def tally(request):
    """The paths of what ran; their number is printed at the end."""
    ran = []
    yield ran
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        print(f"\n{len(ran)} of the corpus's {len(runnable())} runnable command jobs ran, {len(chosen())} were tried")


@pytest.mark.timeout(1800)
@pytest.mark.parametrize("path", chosen() or [pytest.param("", marks=pytest.mark.skip(reason="the corpus is not beside the repository"))])
def test_the_job_runs(path, tree, public, tally, tmp_path):
    words = (tree / path).read_text()
    change = []  # --set, for what lies on other machines
    for line in words.splitlines():
        field, _, address = line.strip().partition(": ")
        if address.startswith("https://azuremlexamples.blob.core.windows.net/datasets/"):
            field = "inputs.iris_csv" + (".path" if field == "path" else "")
            change += ["--set", f"{field}={public}/{address.rsplit('/', 1)[1]}"]
    if field := of(REFUSED, path):
        refused = lapis("job", "create", "-f", tree / path, check=False)
        assert refused.returncode and field in refused.stderr
        pytest.skip(refused.stderr.strip())
    made = lapis("job", "create", "-f", tree / path, *change)
    name = json.loads(made.stdout)["name"]

    if "sleep 600" in words:
        return watch(name, tally, path)
    ended = finish(name, within=1500 if path in LARGE else 300)
    lapis("job", "download", "--name", name, "--all", "--download-path", tmp_path)
    logs = {p.relative_to(tmp_path).as_posix(): p.read_text(errors="replace") for p in tmp_path.rglob("*.txt") if "logs" in p.parts[-2]}
    assert ended == "Completed", "\n".join(f"{p}:\n{text}" for p, text in logs.items())
    for words in of(SAYS, path):
        assert any(words in text for text in logs.values()), logs
    for left in of(LEAVES, path):
        assert list(tmp_path.rglob(left)) or list(tmp_path.glob(f"*/{left}")), [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")]
    if metric := of(LOGS, path):
        assert metric in lapis("job", "metrics", "--name", name).stdout
    tally.append(path)


def watch(name, tally, path):
    """A job that waits for ten minutes is watched until it waits, then stopped."""
    deadline = time.monotonic() + 1500
    while "ready" not in (said := lapis("job", "files", "--name", name).stdout) and status(name) not in ENDED:
        assert time.monotonic() < deadline
        time.sleep(2)
        if status(name) == "Running":
            break
    assert status(name) == "Running", said
    lapis("job", "show-services", "--name", name)
    lapis("job", "cancel", "--name", name)
    assert finish(name, within=60) == "Canceled"
    tally.append(path)


@pytest.mark.parametrize("name", ["hello-world-input.yml", "hello-world-output-data.yml", "hello-code.yml", "hello-iris-folder.yml"])
def test_the_sdk_runs_it_too(name, tree, ml, tmp_path, monkeypatch):
    path = BASICS + name
    monkeypatch.chdir((tree / path).parent)
    job = ml.jobs.create_or_update(load_job(name))
    ml.jobs.stream(job.name)
    ml.jobs.download(job.name, download_path=tmp_path, all=True)
    log = (tmp_path / "artifacts" / "user_logs" / "std_log.txt").read_text()
    assert ml.jobs.get(job.name).status == "Completed", log
    for words in of(SAYS, path):
        assert words in log
    for left in of(LEAVES, path):
        assert (tmp_path / left).is_file()
