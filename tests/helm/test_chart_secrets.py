"""Secrets that the chart makes: strong, drawn once, kept over upgrades, alike wherever the release needs them."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest
import yaml
from api_server import api_server
from chart import CHART, NAME, NAMESPACE, Rendered, arguments_of, helm, render

from gateway.core.accounts import read_password
from gateway.settings import values as setting_values

SECRET_PATH = f"/api/v1/namespaces/{NAMESPACE}/secrets/{NAME}"
EXTERNAL = (
    "database.type=external",
    "database.external.url=postgresql+asyncpg://u:p@db/gateway",
    "broker.type=external",
    "broker.external.url=redis://broker:6379/0",
)


def texts(secret: dict[str, Any]) -> dict[str, str]:
    return {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}


def on_cluster(tmp_path: Path, data: dict[str, str] | None, *values: str, scenario: str = "default") -> Rendered:
    """Render as an upgrade does, on a cluster where the Secret has these texts already."""
    encoded = {key: base64.b64encode(text.encode()).decode() for key, text in (data or {}).items()}
    metadata = {
        "name": NAME,
        "namespace": NAMESPACE,
        "labels": {"app.kubernetes.io/managed-by": "Helm"},
        "annotations": {"meta.helm.sh/release-name": "gw", "meta.helm.sh/release-namespace": NAMESPACE},
    }
    secret = {"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "data": encoded}
    kubeconfig = tmp_path / "kubeconfig"
    with api_server({} if data is None else {SECRET_PATH: secret}, kubeconfig):
        made = helm(
            "template", "gw", str(CHART), "--namespace", NAMESPACE, "--dry-run=server", "--disable-openapi-validation", *arguments_of(scenario, values),
            environ={"KUBECONFIG": str(kubeconfig)},
        )  # fmt: skip
    assert made.returncode == 0, made.stderr
    return Rendered(tuple(one for one in yaml.safe_load_all(made.stdout) if one))


def test_generated_secrets_are_such_as_the_gateway_takes() -> None:
    generated = texts(render().one("Secret"))

    assert set(generated) == {"secret-key", "admin-password"}
    assert setting_values.secret_weakness(generated["secret-key"]) == ""
    assert len(generated["secret-key"]) >= 48
    assert len(generated["admin-password"]) >= 20
    assert read_password(generated["admin-password"]) == generated["admin-password"]


def test_every_installation_draws_secrets_of_its_own() -> None:
    first, second = (
        texts(render("default", value).one("Secret")) for value in ("commonLabels.a=1st", "commonLabels.a=2nd")
    )

    assert not set(first.values()) & set(second.values())


def test_an_upgrade_keeps_the_secrets_that_stand_in_the_cluster(tmp_path: Path) -> None:
    before = {"secret-key": "kept" * 16, "admin-password": "kept too, whatever it is", "mine": "as well"}
    rendered = on_cluster(tmp_path, before)

    assert texts(rendered.one("Secret")) == before


def test_an_upgrade_that_keeps_the_secrets_restarts_no_node(tmp_path: Path) -> None:
    before = {"secret-key": "kept" * 16, "admin-password": "kept too, whatever it is"}
    first, second = (on_cluster(tmp_path, before).one("Deployment") for _ in range(2))

    assert first == second


def test_an_upgrade_draws_only_what_is_missing(tmp_path: Path) -> None:
    before = {"secret-key": "kept" * 16, "admin-password": "kept too, whatever it is"}
    after = texts(on_cluster(tmp_path, before, "metrics.token=true").one("Secret"))

    assert {key: after[key] for key in before} == before
    assert setting_values.bearer_token(after["metrics-token"])


def test_a_first_installation_draws_all(tmp_path: Path) -> None:
    assert set(texts(on_cluster(tmp_path, None).one("Secret"))) == {"secret-key", "admin-password"}


def test_an_uninstall_leaves_secrets_and_data_together() -> None:
    for one in (render().one("Secret"), render().one("PersistentVolumeClaim", f"{NAME}-data")):
        assert one["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    unkept = render("default", "database.persistence.keep=false").one("PersistentVolumeClaim", f"{NAME}-data")
    assert "annotations" not in unkept["metadata"]


def test_the_migration_has_the_secret_that_the_nodes_will_have() -> None:
    rendered = render("default", *EXTERNAL)
    own, migration = texts(rendered.one("Secret")), texts(rendered.one("Secret", f"{NAME}-migration"))
    urls = texts(rendered.one("Secret", f"{NAME}-urls"))

    assert migration == {"secret-key": own["secret-key"], "database-url": "postgresql+asyncpg://u:p@db/gateway"}
    assert urls == {"database-url": "postgresql+asyncpg://u:p@db/gateway", "broker-url": "redis://broker:6379/0"}
    annotations = rendered.one("Secret", f"{NAME}-migration")["metadata"]["annotations"]
    assert annotations["helm.sh/hook-delete-policy"] == "before-hook-creation,hook-succeeded"


def test_no_password_stands_anywhere_but_in_secrets() -> None:
    rendered = render("default", *EXTERNAL)
    secrets = {text for secret in rendered.all("Secret") for text in texts(secret).values()}
    others = yaml.safe_dump([one for one in rendered.objects if one["kind"] != "Secret"], width=10_000)

    assert not [text for text in secrets if text in others]


def test_an_existing_secret_is_referred_to_and_none_is_made() -> None:
    rendered = render("existing-secrets")
    (secrets,) = [volume for volume in rendered.node["volumes"] if volume["name"] == "secrets"]

    assert rendered.all("Secret") == []
    assert secrets["projected"]["sources"] == [
        {
            "secret": {
                "name": "gateway-secrets",
                "items": [
                    {"key": "master", "path": "secret-key"},
                    {"key": "master-before", "path": "secret-key-previous"},
                    {"key": "scrape", "path": "metrics-token"},
                ],
            }
        }
    ]
    assert rendered.all("PersistentVolumeClaim") == []


@pytest.mark.parametrize(
    ("values", "name", "key"),
    [
        ((), NAME, "admin-password"),
        (("tests.existingSecret=probe", "tests.key=word", "tests.user=vera"), "probe", "word"),
    ],
)
def test_the_chart_s_test_logs_in_as_the_first_administrator_or_as_somebody_named(
    values: tuple[str, ...], name: str, key: str
) -> None:
    pod = render("default", *values).one("Pod", f"{NAME}-test")
    (secret,) = [volume["secret"] for volume in pod["spec"]["volumes"] if "secret" in volume]

    assert (secret["secretName"], secret["items"]) == (name, [{"key": key, "path": "password"}])
    assert pod["spec"]["containers"][0]["args"][1] == ("vera" if values else "admin")
    assert pod["metadata"]["annotations"]["helm.sh/hook"] == "test"


def test_the_notes_tell_how_to_log_in(tmp_path: Path) -> None:
    kubeconfig = tmp_path / "kubeconfig"
    with api_server({}, kubeconfig):
        told = helm(
            "install", "gw", str(CHART), "--dry-run=client", "--disable-openapi-validation", "--namespace", NAMESPACE, *arguments_of("ingress", ()),
            environ={"KUBECONFIG": str(kubeconfig)},
        )  # fmt: skip
    assert told.returncode == 0, told.stderr
    notes = " ".join(told.stdout.partition("NOTES:")[2].replace("\\\n", " ").split())

    assert "gateway connect https://gateway.example.com --user root@example.com --signed" in notes
    assert "get secret gw-portcullis --output go-template='{{index .data \"admin-password\" | base64decode}}'" in notes
    assert "exec --stdin --tty deployment/gw-portcullis --container gateway -- gateway users add alice" in notes
    assert f"helm test gw --namespace {NAMESPACE}" in notes
