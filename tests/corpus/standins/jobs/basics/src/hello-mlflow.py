import pathlib
import tempfile

import mlflow

mlflow.log_param("hello_param", "world")
for step in range(3):
    mlflow.log_metric("hello_metric", step / 2, step=step)
with tempfile.TemporaryDirectory() as folder:
    said = pathlib.Path(folder, "helloworld.txt")
    said.write_text("hello world\n")
    mlflow.log_artifact(str(said))
