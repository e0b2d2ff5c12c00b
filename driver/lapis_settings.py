"""The settings of the Azure inference server: environment variables, and
config.json for those that are not set."""

import json
import os

TRUE = frozenset(["1", "true", "t", "yes", "y", "on"])
FALSE = frozenset(["0", "false", "f", "no", "n", "off"])
APP_ROOT = "/var/azureml-app"
VERSION = "1.5.1"  # of the server whose contract this is

# attribute, variable, whether config.json may have it, kind, default
FIELDS = [
    ("app_root", "AML_APP_ROOT", False, str, APP_ROOT),
    ("source_dir", "AZUREML_SOURCE_DIRECTORY", True, str, None),
    ("entry_script", "AZUREML_ENTRY_SCRIPT", True, str, None),
    ("service_name", "SERVICE_NAME", True, str, "ML service"),
    ("workspace_name", "WORKSPACE_NAME", True, str, ""),
    ("service_path_prefix", "SERVICE_PATH_PREFIX", True, str, ""),
    ("service_version", "SERVICE_VERSION", True, str, "1.0"),
    ("scoring_timeout", "SCORING_TIMEOUT_MS", True, int, 3600 * 1000),
    ("log_level", "AZUREML_LOG_LEVEL", True, str, "INFO"),
    ("app_insights_enabled", "AML_APP_INSIGHTS_ENABLED", False, bool, False),
    ("app_insights_key", "AML_APP_INSIGHTS_KEY", False, str, None),
    ("mdc_storage_enabled", "AML_MDC_STORAGE_ENABLED", False, bool, False),
    ("app_insights_log_response_enabled", "APP_INSIGHTS_LOG_RESPONSE_ENABLED", True, bool, True),
    ("cors_origins", "AML_CORS_ORIGINS", False, str, None),
    ("azureml_model_dir", "AZUREML_MODEL_DIR", True, str, ""),
    ("hostname", "HOSTNAME", True, str, "Unknown"),
    ("debug_port", "AZUREML_DEBUG_PORT", True, int, None),
]

# Names that the server knows them by; what has another is told of at the start.
KNOWN = frozenset(name for name, _, _, _, _ in FIELDS if name != "mdc_storage_enabled") | {"model_dc_storage_enabled"}


def complete(env):
    """Adds the variables that the server sets for the script."""
    root = env.setdefault("AML_APP_ROOT", os.getcwd())
    if env.get("AZUREML_ENTRY_SCRIPT"):
        env["AZUREML_ENTRY_SCRIPT"] = os.path.realpath(os.path.join(root, env["AZUREML_ENTRY_SCRIPT"]))
    env.setdefault("WORKER_COUNT", env.get("LAPIS_GROUP_WORKERS") or "1")
    env["AML_APP_INSIGHTS_ENABLED"] = "false"
    if env.get("SERVER_VERSION_LOG_RESPONSE_ENABLED", "true").lower() == "true":
        env.setdefault("HTTP_X_MS_SERVER_VERSION", "azmlinfsrv/" + VERSION)
    env["SERVER_PORT"] = "5001"
    env.setdefault("HEALTH_PORT", "5001")


class Invalid(Exception):
    """A setting that cannot be read; the text names the variable."""


class Settings(object):
    def __init__(self, env=os.environ):
        path = file(env)
        stored = {}
        if path:
            try:
                with open(path) as f:
                    stored = json.load(f)
                if not isinstance(stored, dict):
                    raise ValueError("it holds no object")
            except (OSError, ValueError) as e:
                raise Invalid("%s: %s" % (path, e))
        self.extra = []
        given = {name.lower(): value for name, value in env.items()}
        for name, variable, in_file, kind, default in FIELDS:
            value = given.get(variable.lower())
            if value is None and in_file:
                value = stored.get(variable)
            if value is not None:
                if in_file:
                    self.extra.append(variable)
                value = read(variable, value, kind)
            setattr(self, name, default if value is None else value)


def read(variable, value, kind):
    if kind is str:
        if not isinstance(value, str):
            raise Invalid("%s: Input should be a valid string" % variable)
        return value
    if kind is bool:
        if isinstance(value, bool):
            return value
        text = str(value).strip().lower()
        if text in TRUE or text in FALSE:
            return text in TRUE
        raise Invalid("%s: Input should be a valid boolean, unable to interpret input" % variable)
    if isinstance(value, (int, float)):
        if value != int(value):
            raise Invalid("%s: Input should be a valid integer, got a number with a fractional part" % variable)
        return int(value)
    try:
        text = value.strip()
        whole, _, part = text.partition(".")
        return int(whole if part and not part.strip("0") else text)
    except (ValueError, AttributeError):
        raise Invalid("%s: Input should be a valid integer, unable to parse string as an integer" % variable)


def file(env):
    """The path of config.json: the one that is named, the one in the app's
    root, the one beside the script; "" if there is none."""
    candidates = [env.get("AZUREML_CONFIG_FILE")]
    candidates.append(os.path.join(env.get("AML_APP_ROOT", APP_ROOT), "config.json"))
    if "AZUREML_ENTRY_SCRIPT" in env:
        beside = os.path.dirname(os.path.abspath(env["AZUREML_ENTRY_SCRIPT"]))
        candidates.append(os.path.join(beside, "config.json"))
    for path in candidates:
        try:
            if path and os.stat(path).st_size:
                return path
        except OSError:
            pass
    return ""
