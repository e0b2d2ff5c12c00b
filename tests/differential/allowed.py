"""Where Lapis answers other than MLflow 3.17.2, and why.

An entry matches a difference by the call's method and path, by where the
answers differ, and by what each server says; all are regular expressions that
must be found, and "" matches anything. The test fails on a difference that no
entry matches. What MLflow says about an answer as a whole reads
"404 RESOURCE_DOES_NOT_EXIST No Experiment with id=7 exists".
"""

import dataclasses
import re


@dataclasses.dataclass
class Allowed:
    reason: str
    call: str = ""
    where: str = ""
    theirs: str = ""
    ours: str = ""
    scrap: bool = False  # only on calls that later ones do not depend on
    used: int = 0

    def matches(self, d):
        return (
            (d.call.scrap or not self.scrap)
            and re.search(self.call, f"{d.call.method} {d.call.path}")
            and re.search(self.where, d.where)
            and re.search(self.theirs, str(d.theirs), re.S)
            and re.search(self.ours, str(d.ours), re.S)
        )


ALLOWED = [
    Allowed(
        "MLflow answers some mistakes of a client with a 5xx, which clients send again and again for minutes. "
        "Here a client's mistake is a 4xx.",
        where="^status$", theirs="^5..", ours="^4..",
    ),
    Allowed(
        "MLflow goes on with half of a message that it cannot parse, with zeros for the rest. Here a field of a wrong "
        "type is refused.",
        where="^status$", theirs="^200", ours="^400 INVALID_PARAMETER_VALUE Invalid value", scrap=True,
    ),
    Allowed(
        "MLflow tells the text of its database's error. Here the message says what was wrong.",
        where="^(error_code|message)$", theirs=r"\(sqlite3\.|^BAD_REQUEST$",
    ),
    Allowed(
        "MLflow finds by a failed insert that a trace or dataset is not there; here it is looked for.",
        where="^status$", theirs="^400 BAD_REQUEST .*FOREIGN KEY constraint failed", ours="^404 RESOURCE_DOES_NOT_EXIST",
    ),
    Allowed(
        "MLflow tells how its own server is told to run the code of scorers; this one runs none.",
        call="scorers/register", where="^message$", theirs="^Custom scorer registration", ours="^Custom scorer registration",
    ),
    Allowed(
        "MLflow compares a dataset's name with > and finds none; names have = != LIKE ILIKE in all other searches.",
        call="datasets/search", where="^status$", theirs="^200", ours="^400 INVALID_PARAMETER_VALUE Invalid comparator '>'",
    ),
    Allowed(
        "The keys of a logged model's params and tags have the bound of 250 that all keys have; MLflow's SQLite has none.",
        call="logged-models", where="^status$", theirs="^200", ours="^400 INVALID_PARAMETER_VALUE .*exceeds the maximum length of 250", scrap=True,
    ),
    Allowed(
        "MLflow fails in itself over a tag without a name; here no model has one.",
        call="logged-models/search", where="^status$", theirs="^500 INTERNAL_ERROR type object 'SqlLoggedModel'", ours="^200",
    ),
    Allowed(
        "In a workspace MLflow names the path below the root of all; here it is the one that was asked for.",
        call="mlflow-artifacts/artifacts/", where="^message$", theirs="^No such artifact: 'workspaces/", ours="^No such artifact: '",
    ),
    Allowed(
        "A dataset that is not there has no records; in a workspace MLflow fails over it.",
        call="^GET .*datasets/.*/records", where="^status$", theirs="^500 ", ours='^200 {"records": "\\[\\]"}',
    ),
    Allowed(
        "A dataset that is not there is named in one way, in workspaces and where there are none.",
        call="datasets/.*/records", where="^message$", theirs="^Dataset '.*' not found", ours="^Evaluation dataset with id '.*' not found",
    ),
    Allowed(
        "Where workspaces are, an artifact_location is refused whatever it is, and fields of wrong types before it is.",
        call="experiments/create", where="^message$", theirs="artifact_location|'artifact_location'", ours="^artifact_location cannot be specified|^Invalid value", scrap=True,
    ),
    Allowed(
        "MLflow fails in itself over an update of an assessment's validity alone.",
        call="^PATCH .*/assessments/", where="^status$", theirs="^500 <!doctype", ours="^200",
    ),
    Allowed(
        "Of two things that are missing, a trace and its tag, each server names one.",
        call="^DELETE .*/traces/.*/tags$", where="^message$", theirs="^Trace with ID '.*' not found", ours="^No trace tag with key",
    ),
    Allowed(
        "Of two mistakes in a filter of traces, a comparator and a value, each server names one.",
        call="traces/(search|calculate)", where="^message$", theirs="^Invalid comparator", ours="^Expected numeric value",
    ),
    Allowed(
        "MLflow finds in two ways that a trace which is to be tagged is not there, by the tag's key; here it is one.",
        call="^PATCH .*/traces/.*/tags$", where="^status$", theirs="^404 RESOURCE_DOES_NOT_EXIST Trace with ID", ours="^400 BAD_REQUEST Trace with ID",
    ),
    Allowed(
        "A run without an experiment: in a workspace MLflow looks for experiment 0; here the message says what is missing.",
        call="runs/create", where="^status$", theirs="^404 .*No Experiment with id=0 exists", ours="^400 BAD_REQUEST Missing value", scrap=True,
    ),
    Allowed(
        "MLflow without a login knows no user; here the version says who registered it.",
        call="(registered-models|model-versions)/", where=r"user_id$", theirs="^None$",
    ),
    Allowed(
        "Telling again which models a run made is no error here: clients send a request again when an answer is lost.",
        call="runs/(outputs|log-inputs)", where="^status$", theirs="^400 BAD_REQUEST .*UNIQUE constraint", ours="^200",
    ),
    Allowed(
        "Here LIKE and ILIKE may be written small in every search, not in some of them.",
        where="^status$", theirs="^400 INVALID_PARAMETER_VALUE Invalid comparator for tag: i?like", ours="^200",
    ),
    Allowed(
        "MLflow's setting for schemes that name a host does not exist here; the message says what to do instead.",
        where="^message$", theirs="addresses a host other than", ours="it names a host",
    ),
    Allowed(
        "OR, and a clause after a clause without AND: MLflow names the words that its SQL parser was left with; here the "
        "message names the first thing that is wrong.",
        call="search", where="^message$", theirs="^Invalid clause|^Invalid filter string", ours="^Invalid attribute key '[a'\\\"(]",
    ),
    Allowed(
        "A quote that is never closed: how much of the rest is in the message hangs on MLflow's SQL parser.",
        call="search", where="^message$", theirs=r"^Invalid clause\(s\) in filter string: ''+$", ours=r"^Invalid clause\(s\)",
    ),
    Allowed(
        "A direction without a key is no order; MLflow says that it cannot be parsed, here it is taken for a key.",
        call="search", where="^message$", theirs="^Invalid order_by clause ' *(UP|ASC|DESC)?'", ours="^Invalid (attribute|order by) key '(UP|ASC|DESC|)'",
    ),
    Allowed(
        "Of two mistakes in one search, one in its filter and one in its order or page token, each server names one.",
        call="search", where="^message$", theirs="^Invalid (attribute key|order|comparator|page)", ours="^Invalid (comparator|page|order|attribute key|value for max_results)",
    ),
    Allowed(
        "MLflow fails with INTERNAL_ERROR when two keys to order by are the same; here the second changes nothing.",
        call="search", where="^status$", theirs="^500 INTERNAL_ERROR `order_by` contains duplicate", ours="^200",
    ),
    Allowed(
        "An artefact of no bytes has a size too: 0, which MLflow leaves out.",
        call="artifacts", where=r"file_size$", theirs="^None$", ours="^0$",
    ),
    Allowed(
        "MLflow's check of a number in a query says that it is a str; here the message says what the bound is.",
        call="^GET", where="^message$", theirs="Invalid value .* for parameter 'max_results'", ours="max_results",
    ),
    Allowed(
        "An empty text where something else is wanted: missing or of the wrong type.",
        where="^message$", theirs="^Missing value for", ours="^Invalid value \"\" for", scrap=True,
    ),
    Allowed(
        "What a bad page token is refused with.",
        call="logged-models/search", where="^message$", theirs="page token", ours="page token",
    ),
    Allowed(
        "An update that gives no description: MLflow takes the description away without a trace, here it is empty.",
        where=r"description$", theirs="^None$", ours="^$", scrap=True,
    ),
    Allowed(
        "MLflow fails in itself over null for a list and a text for a message; here they are empty.",
        where="^status$", theirs="^500 ", ours="^200", scrap=True,
    ),
    Allowed(
        "MLflow forgets that a metric of a logged model was not a number, and says 0.",
        where=r"data\.metrics\[\d+\]\.value$", theirs=r"^0\.0$", ours="^NaN$",
    ),
    Allowed(
        "A bare NaN, which MLflow writes here alone, is not JSON.",
        call="get-history-bulk$", where=r"value$", theirs="^nan$", ours="^NaN$",
    ),
    Allowed(
        "Here experiments may be ordered by their tags.",
        call="experiments/search", where="^status$", theirs="^400 INVALID_PARAMETER_VALUE Invalid order_by entity: tag", ours="^200",
    ),
    Allowed(
        "Of two mistakes, or of what one wrong field makes of others, each server names one.",
        where="^message$", theirs="^(Invalid|Missing) value", ours="^(Invalid|Missing) value", scrap=True,
    ),
    Allowed(
        "Here a version tells its aliases wherever it stands; MLflow leaves them out of lists.",
        where=r"aliases$", theirs="^None$", ours=r"^\[",
    ),
    Allowed(
        "MLflow takes -1 for a number of results and answers a page that can only be followed by itself.",
        call="registered-models/search", where="^status$", theirs="^200", ours="^400 INVALID_PARAMETER_VALUE .*positive",
    ),
    Allowed(
        "A range outside the file: here an error says how long the file is.",
        call="mlflow-artifacts/artifacts/", where="^(content-type|)$", theirs="^(text/plain|application/octet-stream|)$", ours="outside the artifact|application/json",
    ),
    Allowed(
        "Of a wrong stage and a wrong version each server names one.",
        call="transition-stage", where="^message$", theirs="^Invalid Model Version stage", ours="^Parameter 'version'",
    ),
    Allowed(
        "MLflow's check of what is missing does not know every field's other spelling, experimentId; here all have it.",
        where="^status$", theirs="^400 INVALID_PARAMETER_VALUE Missing value", ours="^(200|404)", scrap=True,
    ),
    Allowed(
        "Flask's own page for a path or method that is not there; Lapis says so in MLflow's error form.",
        where="^(content-type|status|)$", theirs="text/html|<!doctype", ours="application/json|^40[45]|ENDPOINT_NOT_FOUND",
    ),
    Allowed(
        "Linking a prompt twice in one request is no error here: clients send a request again when an answer is lost.",
        call="traces/link-prompts", where="^status$", theirs="^400 BAD_REQUEST .*UNIQUE constraint", ours="^200",
    ),
    Allowed(
        "A trace that is started again: MLflow's answer shows the tags that it had before, here those that it has.",
        call="POST .*3.0/mlflow/traces$", where=r"\.trace_info\.tags\.", theirs="^None$",
    ),
    Allowed(
        "MLflow fails in itself over traces ordered by their end; here they are.",
        call="traces/search", where="^status$", theirs="SqlTraceInfo' has no attribute 'end_time_ms'", ours="^200",
    ),
    Allowed(
        "MLflow fails over a trace whose spans did not come to its store; here it has none.",
        call="traces/(get|batchGet)$", where="^status$", theirs="^500 .*Trace data not stored in tracking store", ours="^200",
    ),
    Allowed(
        "MLflow compares a time with a text and finds nothing; here a time is compared with a number.",
        call="traces", where="^status$", theirs="^200", ours="^400 .*Expected numeric value type for numeric attribute",
    ),
    Allowed(
        "A quote that is never closed, in a filter of traces: what is named hangs on MLflow's SQL parser.",
        call="traces/(search|calculate-filter-correlation)", where="^message$", theirs=r"^Invalid clause\(s\) in filter string: .*'''$", ours=r"^Invalid clause\(s\)",
    ),
]  # fmt: skip


def allowed(difference):
    """The entry that allows a difference, or None."""
    for entry in ALLOWED:
        if entry.matches(difference):
            entry.used += 1
            return entry
    return None
