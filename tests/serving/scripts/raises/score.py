import json
import sys

COUNT = 0


def init():
    pass


class Base(BaseException):
    pass


def deep():
    return deep()


WORKS = {
    "value": lambda: int("x"), "exit": sys.exit, "exit3": lambda: sys.exit(3), "interrupt": lambda: raised(KeyboardInterrupt()), "timeout": lambda: raised(TimeoutError("mine")),
    "assert": lambda: raised(AssertionError()), "memory": lambda: raised(MemoryError()), "deep": deep, "stop": lambda: next(iter([])), "generator": lambda: raised(GeneratorExit()),
}  # fmt: skip


def raised(e):
    raise e


def run(data):
    global COUNT
    COUNT += 1
    what = json.loads(data)["what"]
    if what == "count":
        return COUNT
    return WORKS[what]()
