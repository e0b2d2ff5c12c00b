"""Raw access to the HTTP request: @rawhttp hands it to run()."""

from flask import Request

_rawHttpRequested = False


def rawhttp(func):
    """Marks run() as taking the request itself."""
    global _rawHttpRequested
    _rawHttpRequested = True
    return func


class AMLRequest(Request):
    """The request of a script."""

    def __init__(self):
        super().__init__()
