"""Values: all documented, none misspelt, those of the gateway's settings as the gateway has them, and contradictions refused."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
import yaml
from annotated_types import Ge, Le
from chart import CHART, refusal, render
from values_table import documented, leaves, readme_with_table

from gateway.settings.model import Issuer, Settings

SCHEMA: dict[str, Any] = json.loads((CHART / "values.schema.json").read_text())
VALUES: dict[str, Any] = yaml.safe_load((CHART / "values.yaml").read_text())

# What the chart decides itself: secrets come as files, the rest from values of its own. Development makes demo users, which no
# cluster shall have.
DECIDED = {
    "environment", "secret_key", "secret_key_previous", "data_dir", "database_url", "broker_url", "policy_dir", "metrics_token",
    "issuers",
}  # fmt: skip


def settings_schema() -> dict[str, dict[str, Any]]:
    return dict(SCHEMA["properties"]["settings"]["properties"])


def test_the_settings_of_the_chart_are_those_of_the_gateway() -> None:
    assert set(settings_schema()) == set(Settings.model_fields) - DECIDED
    assert set(Settings.model_fields) > DECIDED


@pytest.mark.parametrize("name", sorted(set(Settings.model_fields) - DECIDED))
def test_a_setting_has_the_type_bounds_and_meaning_that_the_gateway_gives_it(name: str) -> None:
    field, stated = Settings.model_fields[name], settings_schema()[name]
    bounds = {
        "minimum": next((one.ge for one in field.metadata if isinstance(one, Ge)), None),
        "maximum": next((one.le for one in field.metadata if isinstance(one, Le)), None),
    }

    assert stated["description"] == field.description
    assert {key: stated.get(key) for key in bounds} == bounds
    if field.annotation is bool:
        assert stated["enum"] == [True, False, "on", "off"]
    elif field.annotation in {int, float}:
        assert stated["type"] == {int: "integer", float: "number"}[field.annotation]
    elif name == "log_level":
        assert set(stated["enum"]) == {"info", "debug", "warning", "error"}
    else:
        assert stated["type"] == ("array" if "tuple" in str(field.annotation) else "string")


def test_an_issuer_has_the_members_that_the_gateway_knows() -> None:
    stated = SCHEMA["properties"]["issuers"]["items"]

    assert set(stated["properties"]) == set(Issuer.model_fields)
    assert set(stated["required"]) == {name for name, field in Issuer.model_fields.items() if field.is_required()}


def test_numbers_and_switches_reach_the_gateway_as_it_reads_them() -> None:
    rendered = render(
        "ingress", "settings.compression=true", "settings.docs=off", "settings.refresh_token_ttl_s=315360000"
    )
    given = {name: value for name, value in rendered.environment.items() if name.startswith("GATEWAY_")}

    assert given["GATEWAY_HISTORY_BYTES"] == "536870912"
    assert given["GATEWAY_REFRESH_TOKEN_TTL_S"] == "315360000"
    assert given["GATEWAY_DRAIN_S"] == "2.5"
    assert (given["GATEWAY_COMPRESSION"], given["GATEWAY_DOCS"]) == ("on", "off")
    assert given["GATEWAY_TRUSTED_PROXIES"] == "10.0.0.0/8,fd00::/8"


# ------------------------------------------------------------------------------------------------ closed and documented


def objects(node: Any, path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:  # noqa: ANN401 - a schema
    if isinstance(node, dict):
        if node.get("type") == "object":
            yield path, node
        for key, below in node.items():
            yield from objects(below, f"{path}/{key}")
    elif isinstance(node, list):
        for index, below in enumerate(node):
            yield from objects(below, f"{path}/{index}")


def test_every_object_of_the_schema_is_closed_or_a_map() -> None:
    # What Kubernetes alone can judge, and what a chart above this one keeps for itself.
    foreign = {f"/properties/affinity/properties/{kind}" for kind in ("nodeAffinity", "podAffinity", "podAntiAffinity")}
    open_ones = {path for path, one in objects(SCHEMA) if "additionalProperties" not in one}

    assert open_ones == foreign | {"/properties/global"}
    assert all(one["additionalProperties"] is not True for _, one in objects(SCHEMA) if "additionalProperties" in one)


@pytest.mark.parametrize(
    "value",
    [
        "replicas=2", "settings.max_conections=5", "settings.secret_key=abc", "settings.environment=development",
        "ingress.host=a", "database.externl.url=x", "metrics.serviceMonitor.enable=true", "probes.liveness.path=/x",
        "settings.drain_s=-1", "settings.max_frame_bytes=100", "settings.log_level=loud", "settings.query_token=no",
        "database.type=sqlite", "image.digest=sha256:12", "firstAdmin.name=a b", "shutdown.marginSeconds=1",
        "policies.files.notes\\.txt=x", "server.port=80", "replicaCount=0",
    ],
)  # fmt: skip
def test_a_misspelt_or_impossible_value_is_refused_by_its_name(value: str) -> None:
    said = refusal("default", value)

    assert "values don't meet the specifications of the schema" in said
    section, *_ = re.split(r"[.=]", value)
    assert section in said


def test_every_value_is_documented_and_nothing_else_is() -> None:
    paths = {one.path for one in documented()}
    undocumented = [
        path for path in leaves(VALUES) if not any(path == one or path.startswith(f"{one}.") for one in paths)
    ]

    assert undocumented == []
    assert all(one.meaning.endswith(".") for one in documented())


def test_the_schema_knows_every_value_and_no_other() -> None:
    def same(values: dict[str, Any], schema: dict[str, Any], path: str) -> None:
        schema = SCHEMA["definitions"][schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema
        if "properties" not in schema or path in {"settings", "resources", "migration.resources", "affinity"}:
            return
        assert set(values) == set(schema["properties"]) - {"global"}, path
        for key, below in values.items():
            if isinstance(below, dict):
                same(below, schema["properties"][key], f"{path}.{key}".lstrip("."))

    same(VALUES, SCHEMA, "")


def test_the_readme_has_the_table_that_the_comments_make() -> None:
    page = (CHART / "README.md").read_text()

    assert page == readme_with_table(page), "run: python tests/helm/values_table.py"


@pytest.mark.parametrize(
    "question",
    ["policies", "secrets", "TLS", "ingress", "first users", "scrape", "alert", "upgrade", "roll back", "drain a node"],
)
def test_the_readme_answers_what_operators_ask(question: str) -> None:
    headings = re.findall(r"^##+ (.*)$", (CHART / "README.md").read_text(), re.MULTILINE)

    assert any(question.lower() in heading.lower() for heading in headings)


def test_every_value_that_the_readme_names_exists() -> None:
    page = (CHART / "README.md").read_text().partition("<!-- values")[0]
    known = set(leaves(VALUES)) | {one.path for one in documented()}
    sections = "|".join(VALUES)

    for path in set(re.findall(rf"`((?:{sections})\.[A-Za-z_.]+)`", page)):
        setting = path.removeprefix("settings.")
        assert path in known or any(one.startswith(f"{path}.") for one in known) or setting in settings_schema(), path


# ------------------------------------------------------------------------------------------------ contradictions

SHARED = "set database.type and broker.type to `external`"
PROXIES = "settings.trusted_proxies, such as [10.0.0.0/8]: without them all clients would share one address"


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        (("replicaCount=2",), f"replicaCount above 1 needs a database and a broker that the nodes share: {SHARED}"),
        (("replicaCount=2", "broker.type=external", "broker.external.url=redis://b"), SHARED),
        (("replicaCount=2", "database.type=external", "database.external.url=postgresql+asyncpg://u@d/n"), SHARED),
        (("autoscaling.enabled=true",), f"autoscaling needs a database and a broker that the nodes share: {SHARED}"),
        (("ingress.enabled=true", 'ingress.hosts=["a.example"]'), f"ingress.enabled needs the networks of its proxies in {PROXIES}"),
        (("httpRoute.enabled=true", 'httpRoute.parentRefs=[{"name": "public"}]'), f"httpRoute.enabled needs the networks of its proxies in {PROXIES}"),
        (("ingress.enabled=true", 'ingress.hosts=["a.example"]', "settings.trusted_proxies=[]"), PROXIES),
        (("ingress.enabled=true", 'settings.trusted_proxies=["10.0.0.0/8"]'), "ingress.enabled needs a name in ingress.hosts"),
        (("httpRoute.enabled=true", 'settings.trusted_proxies=["10.0.0.0/8"]'), "httpRoute.enabled needs the Gateway that it attaches to"),
        (("secrets.existingSecret=a", "secrets.externalSecret.enabled=true"), "exclude each other"),
        (("secrets.externalSecret.enabled=true",), "needs the store's name"),
        (("secrets.externalSecret.enabled=true", "secrets.externalSecret.secretStoreRef.name=v"), "does not say where the key `secret-key` is"),
        (("database.type=external",), "database.type `external` needs database.external.url"),
        (("broker.type=external",), "broker.type `external` needs broker.external.url"),
        (("broker.external.url=redis://b",), "broker.external is given, but broker.type is `memory`"),
        (("database.type=external", "database.external.url=u", "database.external.existingSecret=s"), "exclude each other"),
        (("networkPolicy.enabled=true",), "networkPolicy.enabled needs somebody in networkPolicy.clients"),
        (("policies.existingConfigMap=a", "policies.files.a\\.yaml=version: 1"), "exclude each other"),
        (("policies.files.a\\.yaml=version: 1",), "firstAdmin.roles names `admin`, which policies.files does not define"),
    ],
)  # fmt: skip
def test_values_that_do_not_go_together_are_refused_with_a_sentence(values: tuple[str, ...], sentence: str) -> None:
    assert sentence in " ".join(refusal("default", *values).split())


def test_an_autoscaler_needs_something_to_go_by() -> None:
    neither = ("autoscaling.targetCPUUtilizationPercentage=0", "autoscaling.targetConnections=0")

    assert "autoscaling has nothing to go by" in refusal("external", *neither)
    assert "more than autoscaling.maxReplicas" in refusal("external", "autoscaling.minReplicas=50")


def test_several_nodes_on_a_shared_broker_and_database_are_taken() -> None:
    shared = render("external", "autoscaling.enabled=false", "replicaCount=3").one("Deployment")["spec"]

    assert shared["replicas"] == 3
