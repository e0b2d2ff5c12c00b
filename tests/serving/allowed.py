"""Where Lapis answers other than the Azure inference server 1.5.1 and MLflow
3.17.2, and why.

An entry matches a difference by who is asked (the script or model, method and
target), by where the answers differ, and by what each says; all are regular
expressions that must be found, and "" matches anything. `most` is how many
differences of a thousand requests it may explain. A difference that no entry
matches fails the test, and so does one more than `most`.
"""

import dataclasses
import re


@dataclasses.dataclass
class Allowed:
    reason: str
    most: float  # of a thousand requests
    call: str = ""
    where: str = ""
    theirs: str = ""
    ours: str = ""

    def matches(self, d):
        return (
            re.search(self.call, d.call)
            and re.search(self.where, d.where)
            and re.search(self.theirs, d.theirs, re.S)
            and re.search(self.ours, d.ours, re.S)
        )


# A caller is told the request's id by the gateway, whoever answered.
IDS = Allowed("Every reply of an endpoint carries the request's id.", most=1500, where="^header x-(request-id|ms-client-request-id)$", theirs="^none$")

# Also that which came in the older header.
HARMLESS = Allowed("Of the id that a caller gives, 40 letters, digits, - and _ are kept.", most=100, where="^header x-ms-client-request-id$", theirs=r"^\['(a b|x{100}|\xe9)'\]$")

SCRIPTS = [IDS, HARMLESS]

MODELS = [
    Allowed(
        "Every reply of an endpoint carries the request's id, and the name of the server whose contract is kept.", most=3000,
        where="^header (x-(ms-)?(client-)?request-id|x-ms-server-version|traceid)$", theirs="^none$",
    ),
    Allowed("MLflow answers a request without a content type with a 500. Here a client's mistake is a 4xx.", most=10, call="POST /invocations", where="^status$", theirs="500", ours="415"),
    Allowed(
        "MLflow answers a request without a content type with a 500. Here the message names the types that are taken.", most=10,
        call="POST /invocations", where="^body$", theirs="Internal Server Error", ours="only supports the following content types",
    ),
]

NATIVE = [
    *MODELS,
    Allowed(
        "Status and kind of an error are MLflow's. Where pandas, numpy or a library would say what is wrong, it is said in other words.", most=420,
        where="^header message$", theirs=r"^\[", ours=r"^\[",
    ),
    Allowed(
        "Of two faults of a request, the other one is told: as MLflow makes a table cell by cell, it finds cells before columns.", most=60,
        where="^body$", theirs="error_code", ours="error_code",
    ),
    Allowed("An object of values in place of the list of instances is one of them.", most=10, call=r'"instances": \{', where="^(status|body|header message)$", theirs=r"400|error_code|^\[", ours="200|predictions|none"),
    Allowed("An object where a text is meant is no text; Python's way of writing it has no meaning to the model.", most=10, call="^onnx_named .*[a-z]\": \\{", where="^body$", theirs="predictions", ours="predictions"),
]

INPUT_DATA = [
    IDS,
    HARMLESS,
    Allowed("Every reply of an endpoint carries the request's id, and the name of the server whose contract is kept.", most=900, call=" (PUT|DELETE|PATCH) ", where="^header (x-ms-|x-request-id|traceid)", theirs="^none$"),
    Allowed("An id that is too long is refused before the method is.", most=60, call=" (PUT|DELETE|PATCH) ", where="^(status|body)$", theirs="405|method is not allowed", ours="431|must not exceed"),
    Allowed("MLflow's tables in CSV and Parquet are taken on /score too.", most=150, call="POST /score .*'(text/csv|application/vnd.apache.parquet)'", where="^(status|body|header (x-ms-run-|content-type))", theirs="415|Expects Content-Type|False|application/json|none"),
    Allowed(
        "Arrays and numpy's numbers within a dict, as ONNX models answer, are written as MLflow writes them; the Azure inference server answers them with a 500.", most=300,
        where="^(status|body|header x-ms-run-fn-exec-ms)$", theirs="500|unexpected internal error|none", ours=r"^200$|^b'\{|a number",
    ),
]
