"""The swagger documents of a scoring script, in the versions 2, 3 and 3.1."""

import json
import logging
import os
import sys

logger = logging.getLogger("azmlinfsrv.swagger")

# version → other names of it
VERSIONS = {"2": ["2.0"], "3": ["3.0"], "3.1": []}
NAMES = frozenset(VERSIONS) | {other for others in VERSIONS.values() for other in others}

HEALTHY = "If service is up and running, this response will be returned with the content 'Healthy'"
PROCESSED = "The service processed the input correctly and provided a result prediction, if applicable."
SPECIFICATION = "The Swagger specification."
FAILED = "The service failed to execute due to an error."


class Documents(object):
    """The documents of run: a function that inference-schema knows, or None for
    one without a schema. A document in the app's root comes before a made one."""

    def __init__(self, settings, run):
        self.settings = settings
        self.by_name = {}
        self.versions = []
        missing = []
        for version, others in VERSIONS.items():
            document = self.read(version) or self.make(version, others, run)
            if document is None:
                missing.append(version)
                continue
            self.versions.append(version)
            for name in [version] + others:
                self.by_name[name] = document
        have, lack = ", ".join(self.versions), ", ".join(missing)
        if have and lack:
            logger.info("Swaggers are prepared for versions [%s] and skipped for versions [%s].", have, lack)
        elif have:
            logger.info("Swaggers are prepared for the following versions: [%s].", have)
        else:
            logger.info("No swagger is prepared.")

    def find(self, version):
        """(200, document) or (404, message)."""
        have = ", ".join(self.versions)
        if version not in NAMES:
            return 404, "Swagger version [%s] is not valid. Supported versions: [%s]." % (version, have)
        document = self.by_name.get(version)
        if not document:
            return 404, "Swagger version [%s] is not supported for the scoring script. Supported swagger versions: [%s]." % (
                version,
                have,
            )
        return 200, document

    def read(self, version):
        for name in (["swagger.json"] if version == "2" else []) + ["swagger%s.json" % version]:
            path = os.path.join(self.settings.app_root, name)
            try:
                with open(path, "r", encoding="utf-8") as f:
                    document = json.load(f)
            except FileNotFoundError:
                continue
            logger.info("Loaded user's swagger file for version [%s] from %s", version, path)
            if document:
                return document
        return None

    def schemas(self, version, others, run):
        """What the document says of requests and replies; None when this
        version cannot say it."""
        if run is None:
            return {"type": "object", "example": {}}, {"type": "object", "example": {}}
        util = sys.modules["inference_schema.schema_util"]
        supported = util.get_supported_versions(run)
        if not any(name in supported for name in [version] + others):
            return None
        return util.get_input_schema(run), util.get_output_schema(run)

    def make(self, version, others, run):
        found = self.schemas(version, others, run)
        if found is None:
            return None
        taken, given = found
        s = self.settings
        prefix = "/" + s.service_path_prefix.strip("/") if s.service_path_prefix else ""
        name = s.service_name.replace("$SERVICE_VERSION$", s.service_version).replace("$PATH_PREFIX$", prefix)
        info = {
            "title": name,
            "description": "API specification for the Azure Machine Learning service " + name,
            "version": s.service_version,
        }
        return (second if version == "2" else third)(version, info, prefix, taken, given)


def bearer():
    return {
        "type": "apiKey",
        "name": "Authorization",
        "in": "header",
        "description": "For example: Bearer abc123",
    }


def schemas(taken, given):
    return {
        "ServiceInput": taken,
        "ServiceOutput": given,
        "ErrorResponse": {"type": "object", "properties": {"message": {"type": "string"}}},
    }


def operations(prefix, health, score, swagger):
    """The paths, of what the versions say differently."""
    return {
        prefix + "/": {
            "get": dict(
                operationId="ServiceHealthCheck",
                description="Simple health check endpoint to ensure the service is up at any given point.",
                **health
            )
        },
        prefix + "/score": {
            "post": dict(
                operationId="RunMLService",
                description="Run web service's model and get the prediction output",
                security=[{"Bearer": []}],
                **score
            )
        },
        prefix + "/swagger.json": {
            "get": dict(operationId="GetSwaggerSpec", description="Get the Swagger specification.", **swagger)
        },
    }


def second(version, info, prefix, taken, given):
    def ref(name):
        return {"$ref": "#/definitions/" + name}

    def responses(description, schema, **more):
        return {
            "200": dict(description=description, schema=schema, **more),
            "default": {"description": FAILED, "schema": ref("ErrorResponse")},
        }

    text = {"type": "string"}
    payload = {
        "name": "serviceInputPayload",
        "in": "body",
        "description": "The input payload for executing the real-time machine learning service.",
        "schema": ref("ServiceInput"),
    }
    wanted = {"name": "version", "in": "query", "required": False, "type": "integer", "enum": [2, 3]}
    return {
        "swagger": "2.0",
        "info": info,
        "schemes": ["https"],
        "consumes": ["application/json"],
        "produces": ["application/json"],
        "securityDefinitions": {"Bearer": bearer()},
        "paths": operations(
            prefix,
            {"responses": responses(HEALTHY, text, examples={"application/json": "Healthy"})},
            {"parameters": [payload], "responses": responses(PROCESSED, ref("ServiceOutput"))},
            {"parameters": [wanted], "responses": responses(SPECIFICATION, text)},
        ),
        "definitions": schemas(taken, given),
    }


def third(version, info, prefix, taken, given):
    def ref(name):
        return {"$ref": "#/components/schemas/" + name}

    def content(kind, schema):
        return {kind: {"schema": schema}}

    def responses(description, kind, schema):
        failed = {"description": FAILED, "content": content("application/json", ref("ErrorResponse"))}
        return {"200": {"description": description, "content": content(kind, schema)}, "default": failed}

    payload = {
        "description": "The input payload for executing the real-time machine learning service.",
        "content": content("application/json", ref("ServiceInput")),
    }
    wanted = {"name": "version", "in": "query", "required": False, "schema": {"type": "integer", "enum": [2, 3]}}
    return {
        "openapi": "3.0.3" if version == "3" else "3.1.0",
        "info": info,
        "security": [{"Bearer": []}],
        "paths": operations(
            prefix,
            {"responses": responses(HEALTHY, "text/plain", {"type": "string", "example": "Healthy"})},
            {"requestBody": payload, "responses": responses(PROCESSED, "application/json", ref("ServiceOutput"))},
            {"parameters": [wanted], "responses": responses(SPECIFICATION, "text/plain", {"type": "string"})},
        ),
        "components": {"schemas": schemas(taken, given), "securitySchemes": {"Bearer": bearer()}},
    }
