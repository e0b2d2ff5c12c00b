def init():
    pass


def run(data, request_headers):
    return {"data": data, "headers": {k: v for k, v in sorted(request_headers.items()) if k.lower().startswith("x-own") or k in ("User-Agent", "Accept", "Content-Type")}}
