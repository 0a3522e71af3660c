"""Every scenario in helm/ci renders to objects that a cluster takes, with the properties that the chart promises."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import pytest
import yaml
from chart import CHART, NAME, NAMESPACE, ROOT, SCENARIOS, Object, Rendered, arguments_of, helm, render
from kubernetes_validate import validate
from kubernetes_validate.utils import all_versions

from gateway.runtime import lifecycle
from gateway.runtime.connection import LINGER_S
from gateway.web import server

OLDEST = "1.29"
NEWEST = all_versions()[-1]
CUSTOM = {"ServiceMonitor", "PrometheusRule", "HTTPRoute", "ExternalSecret"}
UID = 10001

every_scenario = pytest.mark.parametrize("scenario", SCENARIOS)


def test_the_scenarios_are_those_that_people_install() -> None:
    assert SCENARIOS == ["default", "existing-secrets", "external", "gateway-api", "ingress", "network-restricted"]


def test_the_chart_installs_the_release_of_this_project() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]

    assert (chart["appVersion"], chart["version"]) == (version, version)


def test_the_chart_brings_the_policies_that_the_gateway_ships() -> None:
    shipped = {path.name: path.read_text() for path in (ROOT / "policies").glob("*.yaml")}

    assert {path.name: path.read_text() for path in (CHART / "policies").glob("*")} == shipped
    assert render().one("ConfigMap", f"{NAME}-policies")["data"] == shipped


@every_scenario
def test_lint_finds_nothing(scenario: str) -> None:
    linted = helm("lint", "--strict", str(CHART), *arguments_of(scenario, ()))

    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "WARNING" not in linted.stdout + linted.stderr


@every_scenario
@pytest.mark.parametrize("version", [OLDEST, NEWEST])
def test_oldest_and_newest_kubernetes_take_every_object(scenario: str, version: str) -> None:
    for one in render(scenario).objects:
        if one["kind"] not in CUSTOM:
            validate(one, version, strict=True)


def test_every_kind_of_object_is_rendered_by_some_scenario() -> None:
    kinds = {one["kind"] for scenario in SCENARIOS for one in render(scenario).objects}

    assert kinds == CUSTOM | {
        "ConfigMap", "Deployment", "HorizontalPodAutoscaler", "Ingress", "Job", "NetworkPolicy", "PersistentVolumeClaim", "Pod",
        "PodDisruptionBudget", "Secret", "Service", "ServiceAccount",
    }  # fmt: skip


@every_scenario
def test_every_object_is_labelled_and_named_for_its_release(scenario: str) -> None:
    rendered = render(scenario)
    names = [(one["kind"], one["metadata"]["name"]) for one in rendered.objects]

    assert len(set(names)) == len(names)
    for one in rendered.objects:
        labels = one["metadata"]["labels"]
        assert one["metadata"]["name"].startswith(NAME)
        assert labels["app.kubernetes.io/name"] == "portcullis"
        assert labels["app.kubernetes.io/instance"] == "gw"
        assert labels["app.kubernetes.io/managed-by"] == "Helm"
        assert labels["helm.sh/chart"].startswith("portcullis-")
        assert "namespace" not in one["metadata"], "the release's namespace is Helm's to say"


def test_a_long_release_name_leaves_every_name_within_63_characters() -> None:
    made = helm("template", "r" * 53, str(CHART), *arguments_of("external", ()))

    assert made.returncode == 0
    names = [one["metadata"]["name"] for one in yaml.safe_load_all(made.stdout) if one]
    assert max(map(len, names)) <= 63


# ------------------------------------------------------------------------------------------------ pods


def pods(scenario: str) -> list[tuple[Object, Object]]:
    found = render(scenario).pods
    assert found
    return found


@every_scenario
def test_every_pod_keeps_the_restricted_pod_security_standard(scenario: str) -> None:
    for owner, pod in pods(scenario):
        spec = pod["spec"]
        assert spec["securityContext"] == {
            "runAsNonRoot": True,
            "runAsUser": UID,
            "runAsGroup": UID,
            "fsGroup": UID,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        }, owner["metadata"]["name"]
        assert not {"hostNetwork", "hostPID", "hostIPC"} & set(spec)
        for container in [*spec.get("initContainers", []), *spec["containers"]]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "privileged": False,
                "readOnlyRootFilesystem": True,
                "runAsNonRoot": True,
                "capabilities": {"drop": ["ALL"]},
                "seccompProfile": {"type": "RuntimeDefault"},
            }
            assert not any("hostPort" in port for port in container.get("ports", []))
        kinds = {kind for volume in spec["volumes"] for kind in volume if kind != "name"}
        assert kinds <= {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}


@every_scenario
def test_no_pod_has_a_token_of_the_cluster_nor_variables_of_its_services(scenario: str) -> None:
    rendered = render(scenario)
    for _, pod in pods(scenario):
        assert pod["spec"]["automountServiceAccountToken"] is False
        assert pod["spec"]["enableServiceLinks"] is False
    for account in rendered.all("ServiceAccount"):
        assert account["automountServiceAccountToken"] is False


@every_scenario
def test_every_container_has_memory_bounds_a_place_to_write_and_one_image(scenario: str) -> None:
    for _, pod in pods(scenario):
        mounts_of = {volume["name"] for volume in pod["spec"]["volumes"]}
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            assert "memory" in container["resources"]["limits"]
            assert set(container["resources"]["requests"]) == {"cpu", "memory"}
            assert (
                container["image"]
                == f"portcullis-gateway:{yaml.safe_load((CHART / 'Chart.yaml').read_text())['appVersion']}"
            )
            mounts = {mount["name"]: mount for mount in container["volumeMounts"]}
            assert set(mounts) <= mounts_of
            assert mounts["tmp"]["mountPath"] == "/tmp"  # noqa: S108 - the pod's own
            writable = {name for name, mount in mounts.items() if not mount.get("readOnly")}
            assert writable <= {"tmp", "data"}
            assert not any("subPath" in mount for mount in mounts.values()), "a file mounted alone never changes"


@every_scenario
def test_secrets_come_as_files_that_only_the_gateway_reads(scenario: str) -> None:
    for _, pod in pods(scenario):
        for volume in pod["spec"]["volumes"]:
            if "secret" in volume or "projected" in volume:
                assert volume.get("secret", volume.get("projected"))["defaultMode"] == 0o440
        for container in [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]:
            variables = container.get("env", [])
            assert all(set(variable) == {"name", "value"} for variable in variables)
            secret = {one["name"] for one in variables} & {
                f"GATEWAY_{name}"
                for name in ("SECRET_KEY", "SECRET_KEY_PREVIOUS", "DATABASE_URL", "BROKER_URL", "METRICS_TOKEN")
            }
            assert secret == set()


@every_scenario
def test_the_nodes_never_see_the_first_administrators_password(scenario: str) -> None:
    rendered = render(scenario)
    (secrets,) = [volume for volume in rendered.node["volumes"] if volume["name"] == "secrets"]

    assert "admin-password" not in {mount["name"] for mount in rendered.gateway["volumeMounts"]}
    paths = [item["path"] for source in secrets["projected"]["sources"] for item in source["secret"]["items"]]
    assert "password" not in " ".join(paths)


@every_scenario
def test_the_probes_ask_what_they_are_for(scenario: str) -> None:
    gateway = render(scenario).gateway

    assert gateway["startupProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert gateway["livenessProbe"]["httpGet"] == {"path": "/healthz", "port": "http"}
    assert gateway["readinessProbe"]["httpGet"] == {"path": "/readyz", "port": "http"}
    assert [port["name"] for port in gateway["ports"]] == ["http"]
    assert gateway["readinessProbe"]["timeoutSeconds"] > 2, "the checks behind it take two"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((), 5 + 10 + 15),
        (("settings.drain_s=0",), 5 + 0 + 15),
        (("shutdown.preStopSeconds=0", "settings.drain_s=3"), 0 + 3 + 15),
        (("settings.drain_s=3600",), 5 + 3600 + 15),
    ],
)
def test_the_grace_period_follows_the_drain_time(values: tuple[str, ...], expected: int) -> None:
    rendered = render("default", *values)

    assert rendered.node["terminationGracePeriodSeconds"] == expected
    pause = rendered.gateway.get("lifecycle", {}).get("preStop", {}).get("exec", {}).get("command")
    assert pause == (None if "shutdown.preStopSeconds=0" in values else ["sleep", "5"])


def test_a_fraction_of_a_second_counts_as_a_whole_one() -> None:
    rendered = render("ingress")

    assert rendered.environment["GATEWAY_DRAIN_S"] == "2.5"
    assert rendered.node["terminationGracePeriodSeconds"] == 5 + 3 + 15


def test_the_margin_covers_what_the_gateway_itself_may_take_beyond_the_drain() -> None:
    margin = yaml.safe_load((CHART / "values.yaml").read_text())["shutdown"]["marginSeconds"]
    least = json.loads((CHART / "values.schema.json").read_text())["properties"]["shutdown"]["properties"][
        "marginSeconds"
    ]
    needed = lifecycle.BUSY_S + LINGER_S + 1.0 + server._GRACE_S

    assert margin > needed
    assert least["minimum"] >= needed


@every_scenario
def test_the_selector_finds_the_nodes_and_no_job(scenario: str) -> None:
    rendered = render(scenario)
    selector = rendered.one("Deployment")["spec"]["selector"]["matchLabels"]

    assert rendered.one("Service")["spec"]["selector"] == selector
    for owner, pod in rendered.pods:
        matches = selector.items() <= pod["metadata"]["labels"].items()
        assert matches is (owner["kind"] == "Deployment")


def test_the_embedded_database_never_has_two_nodes_and_the_shared_one_is_never_without() -> None:
    embedded, shared = render().one("Deployment")["spec"], render("external").one("Deployment")["spec"]

    assert embedded["strategy"] == {"type": "Recreate"}
    assert embedded["replicas"] == 1
    assert shared["strategy"] == {"type": "RollingUpdate", "rollingUpdate": {"maxUnavailable": 0, "maxSurge": 1}}
    assert "replicas" not in shared, "the autoscaler says how many"


def test_a_changed_policy_restarts_nothing_and_a_changed_setting_does() -> None:
    plain, policy, setting = (
        render("existing-secrets", *values).one("Deployment")["spec"]["template"]
        for values in ((), ("policies.existingConfigMap=others",), ("settings.max_channels=64",))
    )
    ingress = [
        render("ingress", *values).one("Deployment")["spec"]["template"]["spec"]
        for values in ((), (r"policies.files.90-more\.yaml=version: 1",))
    ]

    assert plain["metadata"] == policy["metadata"]
    assert ingress[0] == ingress[1]
    assert plain["spec"] != setting["spec"]


def test_placement_is_passed_on() -> None:
    rendered = render("network-restricted")
    node = rendered.node

    assert node["nodeSelector"] == {"kubernetes.io/os": "linux"}
    assert node["tolerations"] == [{"key": "gateways", "operator": "Exists", "effect": "NoSchedule"}]
    assert node["priorityClassName"] == "high"
    assert set(node["affinity"]) == {"nodeAffinity"}
    assert node["imagePullSecrets"] == [{"name": "registry"}]
    assert {one["topologyKey"] for one in node["topologySpreadConstraints"]} == {
        "kubernetes.io/hostname",
        "topology.kubernetes.io/zone",
    }
    assert all(one["metadata"]["labels"]["team"] == "edge" for one in rendered.objects)
    assert rendered.one("Deployment")["spec"]["template"]["metadata"]["annotations"]["example.com/note"] == "true"


def test_a_digest_counts_instead_of_the_tag() -> None:
    digest = f"sha256:{'0123456789abcdef' * 4}"

    assert render("default", f"image.digest={digest}", "image.tag=x").gateway["image"] == f"portcullis-gateway@{digest}"
    assert render("default", "image.tag=edge").gateway["image"] == "portcullis-gateway:edge"


# ------------------------------------------------------------------------------------------------ ways in


def test_the_ingress_lets_websockets_last_and_buffers_nothing() -> None:
    ingress = render("ingress").one("Ingress")
    annotations = ingress["metadata"]["annotations"]
    prefix = "nginx.ingress.kubernetes.io/"

    assert annotations[f"{prefix}proxy-read-timeout"] == "7200", "what the operator says wins"
    assert annotations[f"{prefix}proxy-send-timeout"] == "3600"
    assert (annotations[f"{prefix}proxy-buffering"], annotations[f"{prefix}proxy-request-buffering"]) == ("off", "off")
    assert annotations["cert-manager.io/cluster-issuer"] == "letsencrypt"
    assert ingress["spec"]["ingressClassName"] == "nginx"
    assert ingress["spec"]["tls"] == [{"secretName": "gateway-tls", "hosts": ["gateway.example.com"]}]
    (rule,) = ingress["spec"]["rules"]
    assert rule["host"] == "gateway.example.com"
    assert rule["http"]["paths"] == [
        {"path": "/", "pathType": "Prefix", "backend": {"service": {"name": NAME, "port": {"name": "http"}}}}
    ]


def test_another_ingress_controller_gets_no_annotations_of_nginx() -> None:
    plain = render("network-restricted", "ingress.nginx=false").one("Ingress")

    assert "annotations" not in plain["metadata"]
    assert "ingressClassName" not in plain["spec"]


def test_the_http_route_attaches_to_its_gateway_and_ends_no_websocket() -> None:
    route = render("gateway-api").one("HTTPRoute")

    assert route["apiVersion"] == "gateway.networking.k8s.io/v1"
    assert route["spec"] == {
        "parentRefs": [{"name": "public", "namespace": "gateways", "sectionName": "https"}],
        "hostnames": ["gateway.example.com"],
        "rules": [
            {
                "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
                "timeouts": {"request": "0s"},
                "backendRefs": [{"name": NAME, "port": 8000}],
            }
        ],
    }


@pytest.mark.parametrize(
    ("scenario", "values", "expected"),
    [
        ("default", (), f"http://{NAME}.{NAMESPACE}.svc:8000"),
        ("ingress", (), "https://gateway.example.com"),
        ("network-restricted", (), "http://gateway.internal"),
        ("gateway-api", (), "https://gateway.example.com"),
        ("ingress", ("settings.public_url=https://other.example.com",), "https://other.example.com"),
    ],
)
def test_the_public_url_is_where_clients_find_the_gateway(
    scenario: str, values: tuple[str, ...], expected: str
) -> None:
    assert render(scenario, *values).environment["GATEWAY_PUBLIC_URL"] == expected


def test_the_network_policy_names_everybody_who_may_talk() -> None:
    policy = render("external").one("NetworkPolicy")["spec"]
    release = {"app.kubernetes.io/name": "portcullis", "app.kubernetes.io/instance": "gw"}
    node = {**release, "app.kubernetes.io/component": "gateway"}

    assert policy["podSelector"] == {"matchLabels": release}
    assert policy["policyTypes"] == ["Ingress", "Egress"]
    (ingress,) = policy["ingress"]
    assert ingress["from"] == [
        {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "ingress-nginx"}}},
        {"podSelector": {"matchLabels": {**release, "app.kubernetes.io/component": "test"}}},
    ]
    assert ingress["ports"] == [{"port": "http", "protocol": "TCP"}]
    assert [(rule["to"], [port["port"] for port in rule["ports"]]) for rule in policy["egress"]] == [
        ([{"namespaceSelector": {}}], [53, 53]),
        ([{"podSelector": {"matchLabels": node}}], [8000]),
        ([{"ipBlock": {"cidr": "10.20.0.0/16"}}], [5432]),
        ([{"podSelector": {"matchLabels": {"app.kubernetes.io/name": "redis"}}}], [6379]),
        ([{"ipBlock": {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/8"]}}], [443]),
    ]


def test_scrapers_may_come_in_where_they_are_named() -> None:
    (ingress,) = render("network-restricted").one("NetworkPolicy")["spec"]["ingress"]

    assert {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "monitoring"}}} in ingress["from"]


# ------------------------------------------------------------------------------------------------ many nodes


def test_the_autoscaler_goes_by_cpu_and_by_connections() -> None:
    scaler = render("external").one("HorizontalPodAutoscaler")["spec"]

    assert scaler["scaleTargetRef"] == {"apiVersion": "apps/v1", "kind": "Deployment", "name": NAME}
    assert (scaler["minReplicas"], scaler["maxReplicas"]) == (3, 12)
    cpu, connections = scaler["metrics"]
    assert cpu["resource"] == {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 70}}
    assert connections == {
        "type": "Pods",
        "pods": {"metric": {"name": "gateway_connections"}, "target": {"type": "AverageValue", "averageValue": "5000"}},
    }


def test_disruptions_take_one_node_at_a_time_and_no_budget_stands_in_the_way_of_a_single_one() -> None:
    budget = render("external").one("PodDisruptionBudget")["spec"]

    assert budget["maxUnavailable"] == 1
    assert budget["unhealthyPodEvictionPolicy"] == "AlwaysAllow"
    assert budget["selector"] == render("external").one("Deployment")["spec"]["selector"]
    assert render().all("PodDisruptionBudget") == []


def job(rendered: Rendered, what: str) -> Object:
    return rendered.one("Job", f"{NAME}-{what}")


def test_the_migration_runs_before_the_nodes_and_stands_on_nothing_that_does_not_exist_yet() -> None:
    for values in ((), ("database.external.existingSecret=", "database.external.url=postgresql+asyncpg://u:p@db/x")):
        rendered = render("external", *values)
        migration = job(rendered, "migration")
        pod = migration["spec"]["template"]["spec"]
        hooks = {
            one["metadata"]["name"]: int(one["metadata"]["annotations"]["helm.sh/hook-weight"])
            for one in rendered.objects
            if one["metadata"].get("annotations", {}).get("helm.sh/hook") == "pre-install,pre-upgrade"
            and one["kind"] in {"Secret", "ExternalSecret"}
        }

        assert migration["metadata"]["annotations"]["helm.sh/hook"] == "pre-install,pre-upgrade"
        assert pod["containers"][0]["command"] + pod["containers"][0]["args"] == ["gateway", "db", "upgrade"]
        assert "serviceAccountName" not in pod, "the release's own is made later"
        needed = {source["secret"]["name"] for source in pod["volumes"][0]["projected"]["sources"]}
        assert needed - {"postgres-app"} <= set(hooks)
        assert all(hooks[name] < -5 for name in needed & set(hooks))
        assert not any("configMap" in volume or "persistentVolumeClaim" in volume for volume in pod["volumes"])


def test_the_first_administrator_comes_behind_the_migration_where_the_database_is_external() -> None:
    rendered = render("external")

    assert "initContainers" not in rendered.node
    assert job(rendered, "first-admin")["metadata"]["annotations"]["helm.sh/hook"] == "post-install,post-upgrade"


# ------------------------------------------------------------------------------------------------ seeing


def test_the_service_monitor_scrapes_every_node_with_its_token() -> None:
    for scenario, secret, key in (
        ("gateway-api", NAME, "metrics-token"),
        ("existing-secrets", "gateway-secrets", "scrape"),
        ("network-restricted", None, None),
    ):
        rendered = render(scenario)
        monitor = rendered.one("ServiceMonitor")
        (endpoint,) = monitor["spec"]["endpoints"]

        assert monitor["apiVersion"] == "monitoring.coreos.com/v1"
        labels = rendered.one("Service")["metadata"]["labels"]
        assert monitor["spec"]["selector"]["matchLabels"].items() <= labels.items()
        assert (endpoint["port"], endpoint["path"]) == ("http", "/metrics")
        expected = None if secret is None else {"type": "Bearer", "credentials": {"name": secret, "key": key}}
        assert endpoint.get("authorization") == expected
        assert ("GATEWAY_METRICS_TOKEN_FILE" in rendered.environment) is (secret is not None)


def test_the_rules_and_dashboards_arrive_as_they_stand_in_the_chart() -> None:
    rendered = render("gateway-api")
    groups = [
        group
        for path in sorted((CHART / "rules").glob("*.yaml"))
        for group in yaml.safe_load(path.read_text())["groups"]
    ]
    dashboards = {path.name: json.loads(path.read_text()) for path in (CHART / "dashboards").glob("*.json")}
    rule, shown = rendered.one("PrometheusRule"), rendered.one("ConfigMap", f"{NAME}-dashboards")

    assert rule["apiVersion"] == "monitoring.coreos.com/v1"
    assert groups
    assert (rule["spec"]["groups"]) == groups
    assert rule["metadata"]["labels"]["release"] == "prometheus"
    assert dashboards
    assert {name: json.loads(text) for name, text in shown["data"].items()} == dashboards
    assert shown["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_the_external_secret_fetches_every_key_that_the_pods_mount() -> None:
    rendered = render("external")

    for name in (NAME, f"{NAME}-migration"):
        secret = rendered.one("ExternalSecret", name)
        assert secret["apiVersion"] == "external-secrets.io/v1"
        spec = secret["spec"]
        assert spec["target"] == {"name": name, "creationPolicy": "Owner"}
        assert spec["secretStoreRef"] == {"kind": "ClusterSecretStore", "name": "vault"}
        assert {one["secretKey"]: one["remoteRef"] for one in spec["data"]} == {
            "secret-key": {"key": "portcullis/gateway", "property": "secret-key"},
            "admin-password": {"key": "portcullis/gateway", "property": "admin-password"},
            "broker-url": {"key": "portcullis/redis", "property": "url"},
        }


@every_scenario
def test_everything_that_a_pod_mounts_is_made_by_the_release_or_named_by_the_operator(scenario: str) -> None:
    rendered = render(scenario)
    made = {(one["kind"], one["metadata"]["name"]): one for one in rendered.objects}
    named = {"gateway-secrets", "our-policies", "gateway-volume", "postgres-app"}

    def check(kind: str, name: str, keys: list[str]) -> None:
        one: dict[str, Any] | None = made.get((kind, name))
        if one is not None:
            assert set(keys) <= set(one.get("data", {}))
        elif ("ExternalSecret", name) in made:
            fetched = {entry["secretKey"] for entry in made["ExternalSecret", name]["spec"]["data"]}
            assert set(keys) <= fetched
        else:
            assert name in named, (kind, name)

    for _, pod in rendered.pods:
        for volume in pod["spec"]["volumes"]:
            for source in volume.get("projected", {}).get("sources", []):
                check("Secret", source["secret"]["name"], [item["key"] for item in source["secret"]["items"]])
            if "secret" in volume:
                check("Secret", volume["secret"]["secretName"], [item["key"] for item in volume["secret"]["items"]])
            if "configMap" in volume:
                check("ConfigMap", volume["configMap"]["name"], [])
            if "persistentVolumeClaim" in volume:
                check("PersistentVolumeClaim", volume["persistentVolumeClaim"]["claimName"], [])
