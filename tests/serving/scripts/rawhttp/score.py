from azureml.contrib.services.aml_request import AMLRequest, rawhttp
from azureml.contrib.services.aml_response import AMLResponse


def init():
    pass


@rawhttp
def run(request):
    what = request.args.get("what")
    if what == "none":
        return None
    if what == "text":
        return "text"
    if what == "500":
        return AMLResponse("bad", 500)
    if what == "json":
        return AMLResponse({"a": [1, None]}, 201, json_str=True)
    if what == "raise":
        raise ValueError("no")
    if what == "form":
        return {"form": request.form.to_dict(flat=False), "files": {k: f.read().decode("latin-1") for k, f in request.files.items()}}
    return {
        "method": request.method, "path": request.path, "full": request.full_path, "args": request.args.to_dict(flat=False),
        "data": request.get_data(False).decode("latin-1"), "type": request.content_type, "agent": request.headers.get("User-Agent"),
        "isaml": isinstance(request, AMLRequest), "kind": type(request).__name__, "json": request.get_json(force=True, silent=True),
        "host": request.host, "x": request.headers.getlist("X-Many"), "mimetype": request.mimetype, "is_json": request.is_json,
    }  # fmt: skip
