"""Stories that happen in a workspace of their own, with looks at what others see."""

import random

from compare import Call

V3 = "/api/3.0/mlflow/"
HEADER = "X-MLFLOW-WORKSPACE"


def inside(telling, seed, mark):
    """Tell a story in a workspace that is made for it and goes with it."""
    r = random.Random(seed)
    name = f"w{seed}{mark}".lower()
    # Lapis has workspaces while there is one: this one stays.
    yield Call("POST", V3 + "workspaces", {"name": "kept"})
    yield Call("POST", V3 + "workspaces", {"name": name, "description": "a story's"})
    yield Call("GET", V3 + "workspaces/" + name)
    if r.random() < 0.5:
        yield r.choice([
            Call("POST", V3 + "workspaces", {"name": name}),
            Call("POST", V3 + "workspaces", {"name": r.choice(["A", "x", "default", "workspaces", "a_b", "-ab", "n" * 64, ""])}),
            Call("GET", V3 + "workspaces/none-" + name),
            Call("PATCH", V3 + "workspaces/none-" + name, {"description": "x"}),
            Call("DELETE", V3 + "workspaces/none-" + name),
            Call("DELETE", V3 + "workspaces/default"),
        ])  # fmt: skip
    answer = None
    while True:
        try:
            call = telling.send(answer)
        except StopIteration:
            break
        call.headers = (call.headers or {}) | {HEADER: name}
        answer = yield call
        if call.method == "GET" and r.random() < 0.15:
            elsewhere = {HEADER: r.choice(["default", "none-" + name])} if r.random() < 0.8 else {}
            headers = {k: v for k, v in call.headers.items() if k != HEADER}
            yield Call(call.method, call.path, query=call.query, headers=headers | elsewhere)
    yield Call("PATCH", V3 + "workspaces/" + name, {"description": "told"})
    yield Call("DELETE", V3 + "workspaces/" + name)
    yield Call("DELETE", V3 + "workspaces/" + name, query=[("mode", "CASCADE")])
    yield Call("GET", V3 + "workspaces/" + name)
