"""Each alert and panel asks for what a real API tells Prometheus, and each alert is explained."""

import json
import re
from collections.abc import Iterator
from typing import Any

import promql_parser as promql
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from reflux.client import Client
from reflux.commands import Train
from reflux.local.stack import Stack
from reflux.worker import Api
from tests.environment import ROOT
from tests.integration.by_hand import SPEC, HandWorker, eventually

OF_PROMETHEUS = {"up": {"job"}, "ALERTS": {"alertstate"}}
DEPLOY = ROOT / "deploy"
ALERTS: list[dict[str, Any]] = [
    rule for group in yaml.safe_load((DEPLOY / "prometheus" / "alerts.yml").read_text())["groups"] for rule in group["rules"]
]
PANELS: list[dict[str, Any]] = json.loads((DEPLOY / "grafana" / "dashboards" / "reflux.json").read_text())["panels"]
QUERIES = {alert["alert"]: alert["expr"] for alert in ALERTS} | {
    f"{panel['title']} {target['refId']}": target["expr"] for panel in PANELS for target in panel["targets"]
}


@pytest.fixture(scope="module")
def told(control_plane: Stack) -> dict[str, set[str]]:
    """The labels of every metric that the API tells of, once a run is at work."""
    with Client(control_plane.api_url, control_plane.keys["operator"]) as client:
        worker = HandWorker(Api(control_plane.api_url, control_plane.keys["worker"]), control_plane)
        with worker.api.http:
            worker.name = "watched"
            worker.register("gpu_trainer")
            measured = '{"gpu_memory_gb": 80.0, "disk_free_gb": 100.0}'
            worker.sql(f"update workers set capabilities = '{measured}' where name = 'watched'")
            run = client.create(SPEC | {"limits": {"max_teacher_cost_usd": 5}})
            held = worker.work(run.id, until=lambda command: isinstance(command, Train) and command.epoch == 2)
            assert held is not None
            worker.beat(held, metrics=[{"step": 1, "values": {"memory_gb": 12.5}}])
            return eventually(lambda: _labels(client, run.id), 30, "the page is older than it may be")


def _labels(client: Client, run_id: str) -> dict[str, set[str]]:
    page = client.http.get("/metrics").text
    families = list(text_string_to_metric_families(page))
    found = {sample.name: set(sample.labels) for family in families for sample in family.samples}
    return found if run_id in page else {}


def selectors(query: promql.Expr) -> Iterator[promql.VectorSelector]:
    """Every metric that a query names, as PromQL's own grammar reads it."""
    found: list[promql.VectorSelector] = []
    promql.walk(query, lambda node: found.append(node) if isinstance(node, promql.VectorSelector) else None)
    yield from found


@pytest.mark.parametrize("name", QUERIES)
def test_a_query_asks_for_what_there_is(name: str, told: dict[str, set[str]]) -> None:
    known = told | OF_PROMETHEUS
    asked = list(selectors(promql.parse(QUERIES[name])))
    assert asked
    for selector in asked:
        assert selector.name in known
        assert {matcher.name for matcher in selector.matchers.matchers} <= known[selector.name]
    labels = set().union(*(known[selector.name] for selector in asked))
    assert set(grouped(QUERIES[name])) <= labels | {"queue"}


def grouped(query: str) -> list[str]:
    return [label.strip() for part in re.findall(r"\b(?:by|on) \(([^)]*)\)", query) for label in part.split(",") if label.strip()]


def test_texts_name_only_labels_that_their_query_keeps(told: dict[str, set[str]]) -> None:
    for alert in ALERTS:
        kept = set().union(*((told | OF_PROMETHEUS)[selector.name] for selector in selectors(promql.parse(alert["expr"]))))
        assert set(re.findall(r"\$labels\.(\w+)", alert["annotations"]["summary"])) <= kept, alert["alert"]
    for panel in PANELS:
        for target in panel["targets"]:
            kept = set().union(*((told | OF_PROMETHEUS)[s.name] for s in selectors(promql.parse(target["expr"]))))
            assert set(re.findall(r"\{\{(\w+)\}\}", target["legendFormat"])) <= kept, panel["title"]


def test_each_alert_is_explained_and_no_other() -> None:
    page = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    explained = re.findall(r"^### (Reflux\w+)$", page, re.MULTILINE)
    assert explained == [alert["alert"] for alert in ALERTS]
    for alert in ALERTS:
        section = page.split(f"### {alert['alert']}\n")[1].split("\n#")[0]
        assert "**Do**:" in section, alert["alert"]
        assert alert["labels"]["severity"] in ("critical", "warning", "info")


def test_everything_that_the_api_measures_is_on_the_dashboard(told: dict[str, set[str]]) -> None:
    shown = {selector.name for query in QUERIES.values() for selector in selectors(promql.parse(query))}
    assert {name for name in told if name.startswith("reflux_")} - shown <= {"reflux_tasks", "reflux_teacher_calls"}
