"""The online endpoints and deployments of the corpus: every endpoint is made,
called and deleted; the deployments that one machine can run answer, with models
and a script of ours in place of theirs.
"""

import json
import os
import pathlib
import shutil

import mlflow
import pandas
import pytest
from conftest import lapis
from test_jobs import corpus

pytestmark = pytest.mark.skipif(not corpus(), reason="the corpus is not beside the repository")

NCD = "cli/endpoints/online/ncd/"

# Deployments marked `runs`, with the request that is sent to them.
RUNNABLE = {
    NCD + "lightgbm-deployment.yaml": NCD + "sample-request-lightgbm.json",
    NCD + "sklearn-deployment.yaml": NCD + "sample-request-sklearn.json",
    NCD + "sklearn-deployment-with-script.yaml": NCD + "sample-request-sklearn.json",
    "cli/endpoints/online/deploy-with-packages/mlflow-model/model-deployment.yml": NCD + "sample-request-lightgbm.json",
}


def endpoints(kind):
    """Files of a kind of endpoint that the SDK sends, as they are or once what stands between braces is replaced."""
    if not corpus():
        return []
    found = []
    for path in sorted((corpus() / "golden").rglob("*.json")):
        golden = json.loads(path.read_text())
        if golden["kind"] == kind and "requests" in golden:
            found.append((path.relative_to(corpus() / "golden").as_posix().removesuffix(".json"), golden.get("after", {}).get("substitutions", {})))
    return found


# What stands in their file is no identity.
REFUSED = {"endpoint-user-identity.yaml": "user_identity_ARM_id_place_holder"}

# Predicts the sum of each row.
MODEL = '''
import mlflow

class Sums(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input, params=None):
        return model_input.sum(axis=1).tolist()

mlflow.models.set_model(Sums())
'''

SCRIPT = '''
import json, os, pathlib

def init():
    global found
    found = sorted(p.name for p in pathlib.Path(os.environ["AZUREML_MODEL_DIR"]).rglob("MLmodel"))

def run(raw_data):
    rows = json.loads(raw_data)["input_data"]["data"]
    return {"found": found, "sums": [sum(row) for row in rows]}
'''


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """The corpus with a model and a script of ours."""
    root = tmp_path_factory.mktemp("files")
    shutil.copytree(corpus() / "azureml-examples" / "cli" / "endpoints", root / "cli" / "endpoints")
    for folder, _, names in os.walk(root):
        os.chmod(folder, 0o755)
        for name in names:
            os.chmod(os.path.join(folder, name), 0o644)
    needs = [f"mlflow-skinny=={mlflow.__version__}", f"pandas=={pandas.__version__}", "cloudpickle"]
    model = tmp_path_factory.mktemp("model") / "model"
    (model.parent / "sums.py").write_text(MODEL)
    mlflow.pyfunc.save_model(model, python_model=str(model.parent / "sums.py"), pip_requirements=needs)
    for where in ("lightgbm-iris", "sklearn-diabetes"):
        shutil.copytree(model, root / NCD / where / "model", dirs_exist_ok=True)
    script = root / NCD / "sklearn-diabetes" / "src" / "score.py"
    script.parent.mkdir()
    script.write_text(SCRIPT)
    if os.environ.get("LAPIS_CORPUS_JOBS") != "all":  # theirs takes minutes to make
        (root / NCD / "sklearn-diabetes" / "environment" / "conda.yaml").write_text("dependencies:\n- pip\n")
    lapis("model", "create", "--name", "heart-classifier-mlflow", "--path", str(model), "--type", "mlflow_model")
    return root


ENDPOINTS = endpoints("managedOnlineEndpoint")


@pytest.mark.parametrize("path, substitutions", ENDPOINTS, ids=[path for path, _ in ENDPOINTS])
def test_the_endpoint_is_made_called_and_deleted(path, substitutions, unique, tmp_path):
    text = (corpus() / "azureml-examples" / path).read_text()
    for word, value in substitutions.items():
        text = text.replace("{{" + word + "}}", value).replace("<" + word + ">", value)
    file = tmp_path / pathlib.PurePath(path).name
    file.write_text(text)
    name = unique("ep")
    if wrong := REFUSED.get(file.name):
        refused = lapis("online-endpoint", "create", "-f", str(file), "-n", name, check=False)
        assert refused.returncode == 1 and wrong in refused.stderr, refused.stderr
        return
    made = json.loads(lapis("online-endpoint", "create", "-f", str(file), "-n", name).stdout)
    assert made["name"] == name and made["provisioning_state"] == "Succeeded" and made["scoring_uri"].endswith(f"/endpoints/{name}/score")
    assert name in json.loads(lapis("online-endpoint", "list", "--query", "[].name").stdout)
    request = tmp_path / "request.json"
    request.write_text("{}")
    called = lapis("online-endpoint", "invoke", "-n", name, "-r", str(request), check=False)
    assert called.returncode == 1 and "answered 404" in called.stderr
    lapis("online-endpoint", "delete", "-n", name, "--yes")
    assert lapis("online-endpoint", "show", "-n", name, check=False).returncode == 1


@pytest.mark.parametrize("path", [path for path, _ in endpoints("kubernetesOnlineEndpoint")])
def test_an_endpoint_of_a_cluster_that_is_not_there_is_refused(path, unique):
    name = unique("ep")
    made = lapis("online-endpoint", "create", "-f", str(corpus() / "azureml-examples" / path), "-n", name, check=False)
    assert made.returncode == 1 and "inferencecompute" in made.stderr, made.stderr
    assert lapis("online-endpoint", "show", "-n", name, check=False).returncode == 1


@pytest.fixture
def endpoint(unique):
    name = unique("ep")
    lapis("online-endpoint", "create", "-n", name)
    yield name
    lapis("online-endpoint", "delete", "-n", name, "--yes")


@pytest.mark.parametrize("path", RUNNABLE)
def test_the_deployment_answers(path, files, endpoint):
    made = json.loads(lapis("online-deployment", "create", "-f", str(files / path), "-e", endpoint, "--all-traffic").stdout)
    assert made["provisioning_state"] == "Succeeded" and made["endpoint_name"] == endpoint
    body = json.loads((files / RUNNABLE[path]).read_text())
    sums = [sum(row) for row in body["input_data"]["data"]]
    answer = json.loads(lapis("online-endpoint", "invoke", "-n", endpoint, "-r", str(files / RUNNABLE[path])).stdout)
    if "with-script" in path:
        assert answer == {"found": ["MLmodel"], "sums": sums}
    else:
        assert answer == sums
