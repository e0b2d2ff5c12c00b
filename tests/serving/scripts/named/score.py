class Model:
    """Not in sys.modules: what __main__ and pickles see of it is the server's matter."""


def init():
    global model
    model = Model()


def run(anything_at_all):
    import os
    import sys

    return {
        "module": __name__, "package": __package__, "file": os.path.basename(__file__), "listed": __name__ in sys.modules, "model": type(model).__module__,
        "root_on_path": os.environ["AML_APP_ROOT"] in sys.path, "type": type(anything_at_all).__name__, "value": anything_at_all,
        "workers": os.environ.get("WORKER_COUNT"), "insights": os.environ.get("AML_APP_INSIGHTS_ENABLED"), "version": os.environ.get("HTTP_X_MS_SERVER_VERSION"),
    }  # fmt: skip
