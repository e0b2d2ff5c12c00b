"""MLflow's own Java client runs its basic flow against the binary."""

import os
import pathlib
import shutil
import subprocess
import sys

import pytest

HERE = pathlib.Path(__file__).parent
JARS = pathlib.Path(os.environ.get("LAPIS_JARS", HERE.parent.parent / ".tools" / "java"))


@pytest.mark.timeout(900)
def test_the_java_client_runs_its_basic_flow(unique, tmp_path):
    if not shutil.which("java") or not list(JARS.glob("mlflow-client-*.jar")):
        pytest.skip("there is no JDK 11 or newer, or Maven has not brought MLflow's Java client: make test-java does")
    # The client moves artefacts by MLflow's command line, which is of the venv.
    path = f"{pathlib.Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["java", "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn", "-cp", f"{JARS}/*", HERE / "BasicFlow.java", unique("java"), tmp_path],
        env=os.environ | {"PATH": path}, cwd=tmp_path, capture_output=True, text=True, timeout=800,
    )
    assert done.returncode == 0 and "all well" in done.stdout, done.stdout + done.stderr
