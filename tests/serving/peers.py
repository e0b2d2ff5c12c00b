"""The servers that Lapis is compared with, each as a process of its own.

python peers.py mlflow FOLDER ...   MLflow's own application for each model folder, under its own server, in one process
It prints one line of JSON, {"folder": port}, when all of them answer.
"""

import json
import os
import socket
import sys
import threading
import time


def mlflow(folders):
    os.environ["_MLFLOW_IS_IN_SERVING_ENVIRONMENT"] = "true"
    import uvicorn
    from mlflow.pyfunc import scoring_server

    ports, servers = {}, []
    for folder in folders:
        listener = socket.socket()
        listener.bind(("127.0.0.1", 0))
        app = scoring_server.init(scoring_server.load_model_with_mlflow_config(folder))
        server = uvicorn.Server(uvicorn.Config(app, log_level="warning"))
        threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True).start()
        ports[folder] = listener.getsockname()[1]
        servers.append(server)
    while not all(s.started for s in servers):
        time.sleep(0.05)
    print(json.dumps(ports), flush=True)
    sys.stdin.read()  # ends with whoever started it


if __name__ == "__main__":
    {"mlflow": mlflow}[sys.argv[1]](sys.argv[2:])
