"""Cross-origin headers, as the Azure inference server sends them when
AML_CORS_ORIGINS names origins."""

from lapis_headers import find

METHODS = ("GET", "POST")


def headers(origins, method, lines):
    """The header lines for a reply."""
    origin = find(lines, b"Origin")
    anyone = "*" in origins
    if origin:
        text = origin.decode("latin-1")
        if not anyone and not any(text.lower() == o.lower() for o in origins):
            return b""
        allowed = origin
    elif anyone:
        allowed = b"*"
    else:
        allowed = sorted(origins)[0].encode("latin-1", "replace")
    added = b"Access-Control-Allow-Origin: " + allowed + b"\r\n"
    if method == b"OPTIONS":
        asked = (find(lines, b"Access-Control-Request-Method") or b"").decode("latin-1").upper()
        if asked in METHODS:
            wanted = (find(lines, b"Access-Control-Request-Headers") or b"").decode("latin-1")
            if wanted:
                names = ", ".join(sorted(h.strip() for h in wanted.split(",")))
                added += b"Access-Control-Allow-Headers: " + names.encode("latin-1") + b"\r\n"
            added += b"Access-Control-Allow-Methods: " + ", ".join(METHODS).encode() + b"\r\n"
    if len(origins) > 1 or (origin and anyone):
        added += b"Vary: Origin\r\n"
    return added
