"""Header lines, as frames carry them: b"Name: value\\r\\n", names canonical."""


def find(headers, name):
    """The value of a header (name in its canonical form, both bytes), or None."""
    mark = name + b": "
    if headers.startswith(mark):
        at = len(mark)
    else:
        at = headers.find(b"\n" + mark)
        if at < 0:
            return None
        at += len(mark) + 1
    end = headers.find(b"\r", at)
    return headers[at:] if end < 0 else headers[at:end]


def pairs(headers):
    """All headers as (name, value), texts, in order."""
    found = []
    for line in headers.split(b"\r\n"):
        name, colon, value = line.partition(b":")
        if colon:
            found.append((name.decode("latin-1"), value.strip().decode("latin-1")))
    return found


def fields(headers):
    """All headers by their name in lower case; repeated ones joined by commas."""
    found = {}
    for name, value in pairs(headers):
        name = name.lower()
        found[name] = found[name] + "," + value if name in found else value
    return found


def lines(pairs):
    """Header lines of (name, value) pairs. What would end a line is left out."""
    return b"".join(
        ("%s: %s\r\n" % (canonical(name), clean(str(value)))).encode("latin-1", "replace") for name, value in pairs
    )


def clean(value):
    if "\r" in value or "\n" in value:
        return value.replace("\r", "").replace("\n", "")
    return value


def canonical(name):
    """As Go writes a name: each part in lower case after its capital."""
    return "-".join(part[:1].upper() + part[1:].lower() for part in clean(name).split("-"))
