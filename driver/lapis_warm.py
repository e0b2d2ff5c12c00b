"""What the parent of the workers imports before it forks: the libraries that
the script names, never the script itself or a file beside it.

All of it is best effort. What does not import here is met again in the worker,
where the failure is told."""

import ast
import importlib
import os
import re
import sys
import threading

FILES = 50  # of the user's that are read for their imports
MODELS = 5  # pickles that are looked into
PICKLES = (".pkl", ".pickle", ".joblib", ".sav")
PICKLE_HEAD = 256 << 10  # bytes of each
PICKLED = re.compile(rb"\b((?:sklearn|scipy|xgboost|lightgbm|catboost|pandas|statsmodels)(?:\.[A-Za-z_]\w*)*)\b")

# What scripts know of the Azure inference server; it takes Flask with it.
SHIMS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "shims")

# Their threads and handles do not survive a fork.
NEVER = frozenset(["tensorflow", "jax", "jaxlib", "grpc", "ray", "pyspark", "cupy"])


def imports():
    """Imports what the script imports, its output hidden; a generator, that
    pauses after each."""
    mlflow = os.environ.get("LAPIS_GROUP_FLAVOR") == "mlflow"
    if mlflow:
        import lapis_mlflow

        model = os.environ.get("LAPIS_GROUP_MODEL", "")
        names = lapis_mlflow.modules(model) + pickled(model)
    else:
        names = named(script(), roots()) + pickled(os.environ.get("AZUREML_MODEL_DIR", ""))
    for name in names:
        if name.partition(".")[0] in NEVER:
            continue
        hidden(lambda: importlib.import_module(name.replace("azureml.contrib.services.", "azureml_inference_server_http.api.")))
        yield name
    if mlflow:
        hidden(lapis_mlflow.prepare)
        yield "mlflow"


def forks_well():
    """Whether this process may be forked: the threads of a library do not come
    along, and their locks stay locked."""
    return threading.active_count() == 1


def hidden(do):
    """Does what imports modules; what that prints and whether it fails is nobody's affair."""
    before = list(sys.path)
    platform = os.environ.get("LAPIS_PLATFORM_PACKAGES")
    if platform:
        sys.path.append(platform)
    sys.path.append(SHIMS)
    saved = [os.dup(1), os.dup(2)]
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    try:
        do()
    except BaseException:
        pass
    finally:
        for stream in (sys.stdout, sys.stderr):
            try:
                stream.flush()
            except Exception:
                pass
        for fd, kept in zip((1, 2), saved):
            os.dup2(kept, fd)
            os.close(kept)
        os.close(nowhere)
        sys.path[:] = before


def roots():
    """Folders where the user's own modules lie."""
    root = os.environ.get("AML_APP_ROOT", "")
    source = os.environ.get("AZUREML_SOURCE_DIRECTORY", "")
    return [d for d in (root, os.path.join(root, source) if source else "") if d]


def script():
    root = os.environ.get("AML_APP_ROOT", "")
    return os.path.join(root, os.environ.get("AZUREML_ENTRY_SCRIPT") or "main.py")


def named(path, folders):
    """Names of the modules that a file, and those of the user's that it
    imports, ask for at their top level or within init(), in order."""
    found, queue, seen = [], [path], set()
    while queue and len(seen) < FILES:
        path = queue.pop(0)
        if path in seen:
            continue
        seen.add(path)
        try:
            with open(path, "rb") as f:
                tree = ast.parse(f.read())
        except (OSError, SyntaxError, ValueError, RecursionError, MemoryError):
            continue
        for name in asked(tree.body):
            own = False
            for d in folders:
                at = os.path.join(d, *name.split("."))
                for candidate in (at + ".py", os.path.join(at, "__init__.py")):
                    if os.path.isfile(candidate):
                        own = True
                        queue.append(candidate)
                top = os.path.join(d, name.partition(".")[0])
                own = own or os.path.exists(top) or os.path.exists(top + ".py")
            if not own and name not in found:
                found.append(name)
    return found


def pickled(folder):
    """Modules that the pickles of a model name: loading them will import those."""
    found = []
    files = 0
    for at, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            if not name.endswith(PICKLES) or files == MODELS:
                continue
            files += 1
            try:
                with open(os.path.join(at, name), "rb") as f:
                    text = f.read(PICKLE_HEAD)
            except OSError:
                continue
            for match in PICKLED.findall(text):
                module = match.decode()
                if module not in found and len(found) < FILES:
                    found.append(module)
    return found


def asked(body):
    for node in body:
        if isinstance(node, ast.Import):
            for a in node.names:
                yield a.name
        elif isinstance(node, ast.ImportFrom):
            if node.module and not node.level:
                yield node.module
        elif isinstance(node, ast.FunctionDef):
            if node.name == "init":
                for name in asked(node.body):
                    yield name
        elif isinstance(node, (ast.If, ast.Try, ast.With)):
            for name in asked(node.body):
                yield name
