"""A reply that a script makes by hand."""

import json

from flask import Response


class AMLResponse(Response):
    """A reply with a status and headers. None is answered as {}; with json_str
    the message is written as JSON. A comma in a header's value makes it
    several headers."""

    def __init__(self, message, status_code, response_headers={}, json_str=False, run_function_failed=False):
        if message is None or json_str:
            body = json.dumps({} if message is None else message)
            super().__init__(body, status=status_code, mimetype="application/json")
        else:
            super().__init__(message, status=status_code)
            if "Content-Type" in response_headers:
                self.headers.remove("Content-Type")
        self.headers["x-ms-run-function-failed"] = run_function_failed
        for name, values in response_headers.items():
            for value in values.split(","):
                self.headers.add_header(name, value.strip())
