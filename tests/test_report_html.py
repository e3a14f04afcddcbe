"""The HTML page, the figures in it, and what notebooks and ONNX viewers are given."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import numpy as np
import plotly.graph_objects as go
import pytest

from codesign.report import plots
from codesign.report.html import MAX_ROWS, render
from codesign.report.layers import layers
from codesign.report.metadata import node_metadata
from codesign.report.report import Report, TaskTable
from codesign.report.verdict import key_figures, verdict
from tests.test_report import synthetic_report

HOSTILE = "<script>alert('x')</script><img src=x onerror=alert(1)>\"&'"


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self._open: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag in self._open:
            while self._open.pop() != tag:
                pass

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self._open):
            self.text.append(data)

    def count(self, tag: str) -> int:
        return sum(found == tag for found, _ in self.tags)


def renamed(report: Report, name: str) -> Report:
    """The same run with `name` wherever a model, an exporter or a device file chooses the text."""
    document = report.document
    foreign = {"onnx_nodes": [name], "op": name, "bound": name, "resource": name}
    ops = [op.model_copy(update={**foreign, "name": f"{name}/{index}"}) for index, op in enumerate(document.ops)]
    changed = document.model_copy(
        update={
            "model": name, "device": name, "dtype": name, "why": name, "levers": [name], "warnings": [name], "ops": ops,
            "resources": {name: next(iter(document.resources.values()))}, "energy": {name: document.energy_J},
        }
    )  # fmt: skip
    tasks = report.tasks
    renamed_tasks = TaskTable(
        tasks.op, [name] * len(tasks), [name] * len(tasks), tasks.start_s, tasks.end_s, tasks.busy_s, tasks.waited_s,
        tasks.firings, tasks.energy_J,
    )  # fmt: skip
    return Report(changed, renamed_tasks, report.live_bytes, report.roof)


def empty_report() -> Report:
    """A model without operations: nothing to divide by."""
    report = synthetic_report(layers=1)
    document = report.document.model_copy(
        update={"ops": [], "latency_s": 0.0, "energy_J": 0.0, "macs": 0, "energy": {"static": 0.0}, "resources": {}}
    )
    nothing = np.zeros(0)
    return Report(document, TaskTable(nothing, [], [], *[nothing] * 6))


@pytest.fixture(scope="module")
def report() -> Report:
    return synthetic_report()


@pytest.fixture(scope="module")
def text(report: Report) -> str:
    return render(report)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


# The page


def test_page_shows_the_verdict_and_every_warning_before_the_first_figure(report: Report, page: Page) -> None:
    before = "".join(page.text).split("How far is each operation")[0]
    assert verdict(report.document) in before
    assert all(warning in before for warning in report.document.warnings)


def test_page_fetches_nothing(page: Page) -> None:
    assert not [attributes for _, attributes in page.tags if "src" in attributes or "href" in attributes]
    policies = [a["content"] for _, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policies
    assert str(policies[0]).startswith("default-src 'none'")


def test_page_holds_plotly_once_and_less_than_a_megabyte_beside_it() -> None:
    from plotly.offline import get_plotlyjs

    library, text = get_plotlyjs(), render(synthetic_report(layers=400))
    assert text.count(library) == 1
    assert len(text.encode()) - len(library.encode()) < 1 << 20


def test_page_has_every_figure_and_a_row_an_operation(report: Report, page: Page, text: str) -> None:
    drawn = {attributes.get("id") for _, attributes in page.tags}
    assert set(plots.FIGURES) <= drawn
    assert page.count("tr") == 1 + len(report.document.ops)


def test_inferences_a_second_below_one_stay_plain_numbers(report: Report) -> None:
    slow = report.document.model_copy(update={"latency_s": 76.8})
    assert dict(key_figures(slow))["Inferences/s"] == "0.013"
    assert dict(key_figures(slow.model_copy(update={"latency_s": 5e-4})))["Inferences/s"] == "2.00 k"


def test_page_of_a_model_that_does_not_fit_says_why_and_what_would_help() -> None:
    report = synthetic_report(fits=False)
    text = "".join(Page(render(report)).text)
    assert report.document.why in text
    assert report.document.levers[0] in text


def test_page_keeps_the_slowest_operations_when_there_are_too_many() -> None:
    report = synthetic_report(layers=MAX_ROWS // 5 + 10)
    text = render(report)
    slowest = max(report.document.ops, key=lambda op: op.latency_s)
    assert Page(text).count("tr") == 1 + MAX_ROWS
    assert f">{slowest.name}</td>" in text
    assert "50 more are in the JSON" in text


def test_foreign_text_is_shown_and_never_becomes_markup(report: Report, page: Page) -> None:
    found = Page(render(renamed(report, HOSTILE)))
    assert found.count("script") == page.count("script")
    assert found.count("img") == 0
    assert HOSTILE in "".join(found.text)


def test_figures_escape_foreign_text_where_plotly_reads_tags(report: Report) -> None:
    for draw in plots.FIGURES.values():
        figure = draw(renamed(report, HOSTILE)).update_layout(meta=None)  # which plotly does not show
        assert re.findall(r"<script|<img", str(figure.to_plotly_json())) == []


def test_page_of_an_empty_model_renders() -> None:
    assert "no operation takes any time" in "".join(Page(render(empty_report())).text)


# The figures


@pytest.mark.parametrize("name", plots.FIGURES)
def test_figure_asks_a_question_and_names_its_units(name: str, report: Report) -> None:
    figure = plots.FIGURES[name](report)
    assert isinstance(figure, go.Figure)
    assert figure.layout.meta["question"].endswith("?")
    assert figure.layout.meta["answer"].endswith(".")
    titles = [axis.title.text for axis in (figure.layout.xaxis, figure.layout.yaxis) if axis.title.text]
    assert titles
    assert all(re.search(r"\((s|J|OP/B|OP/s|bytes|%.*)\)$", title) for title in titles)


def test_roofline_puts_each_operation_with_macs_at_its_intensity_and_rate(report: Report) -> None:
    figure = plots.roofline(report)
    drawn = {(x, y) for trace in figure.data if trace.mode == "markers" for x, y in zip(trace.x, trace.y, strict=True)}
    expected = {(2 * op.macs / op.bytes, 2 * op.macs / op.latency_s) for op in report.document.ops if op.macs}
    assert drawn == expected


def test_roofline_bends_where_bandwidth_reaches_the_peak(report: Report) -> None:
    assert report.roof is not None
    roof = next(trace for trace in plots.roofline(report).data if trace.mode == "lines")
    assert roof.x[1] * report.roof.dram_bandwidth == pytest.approx(report.roof.peak_flops)
    assert roof.y[1] == roof.y[2] == report.roof.peak_flops


def _summed(figure: go.Figure, axis: str) -> float:
    return sum(sum(trace[axis]) for trace in figure.data)


def test_times_by_kind_and_by_layer_sum_to_the_operations_time(report: Report) -> None:
    total = sum(op.latency_s for op in report.document.ops)
    assert _summed(plots.time_by_kind(report, top=2), "x") == pytest.approx(total)
    assert _summed(plots.time_by_layer(report), "y") == pytest.approx(total)


def test_parts_of_a_deep_network_keep_their_bars_and_name_only_as_many_as_fit() -> None:
    figure = plots.time_by_layer(synthetic_report(layers=48))
    assert {len(trace.x) for trace in figure.data} == {48}
    assert len(figure.layout.xaxis.tickvals) == len(figure.layout.xaxis.ticktext) == 16


def test_energy_by_component_sums_to_the_total(report: Report) -> None:
    assert _summed(plots.energy_by_component(report), "x") == pytest.approx(report.energy_J)


def test_memory_draws_the_capacity_only_where_it_can_be_seen(report: Report) -> None:
    assert report.roof is not None
    roomy = Report(
        report.document, report.tasks, report.live_bytes, type(report.roof)(1e12, 1e9, capacity_bytes=1 << 40)
    )
    assert len(plots.memory(report).data) == 2
    assert len(plots.memory(roomy).data) == 1
    assert "1.00 TiB" in plots.memory(roomy).layout.meta["answer"]


def test_timeline_draws_each_task_where_it_ran(report: Report) -> None:
    figure = plots.timeline(report)
    bars = {(trace.base[i], trace.base[i] + trace.x[i]) for trace in figure.data for i in range(len(trace.x))}
    tasks = report.tasks
    assert {round(end, 12) for _, end in bars} == {round(float(end), 12) for end in tasks.end_s}
    assert {start for start, _ in bars} == {float(start) for start in tasks.start_s}


def test_timeline_merges_tasks_down_to_its_limit(report: Report) -> None:
    figure = plots.timeline(report, limit=20)
    assert sum(len(trace.x) for trace in figure.data) <= 20
    assert "merged" in figure.layout.meta["answer"]


def test_timeline_menu_zooms_to_the_lanes_of_one_resource(report: Report) -> None:
    figure = plots.timeline(report)
    buttons = {button.label: button.args[0]["yaxis.range"] for button in figure.layout.updatemenus[0].buttons}
    assert set(buttons) == {"all resources", *report.document.resources}
    covered = [buttons[name] for name in report.document.resources]
    assert sum(bottom - top for bottom, top in covered) == buttons["all resources"][0] - buttons["all resources"][1]


# Layers


def test_layers_are_the_deepest_parts_that_are_few_enough() -> None:
    names = [f"/encoder/layer.{index}/{part}/MatMul" for index in range(4) for part in ("attention", "mlp")]
    assert layers(names, few=4)[:3] == ["encoder/layer.0", "encoder/layer.0", "encoder/layer.1"]
    assert layers(names, few=8)[:2] == ["encoder/layer.0/attention", "encoder/layer.0/mlp"]


def test_layers_are_more_than_few_where_fewer_would_tell_nothing() -> None:
    names = [f"/encoder/layer.{index}/MatMul" for index in range(40)] + ["/head/MatMul"]
    assert layers(names, few=10, most=64)[:2] == ["encoder/layer.0", "encoder/layer.1"]
    assert len(set(layers(names, few=10, most=20))) == 2


def test_layers_of_names_without_paths_are_runs_of_neighbours() -> None:
    found = layers([f"node_{index}" for index in range(10)], few=4, most=8)
    assert found == ["operations 1-3"] * 3 + ["operations 4-6"] * 3 + ["operations 7-9"] * 3 + ["operation 10"]


def test_layers_below_one_common_part_are_runs_too() -> None:
    names = [f"/main/node_{index}" for index in range(4)]
    assert layers(names, few=2, most=3) == ["operations 1-2"] * 2 + ["operations 3-4"] * 2


def test_layers_of_nothing_are_none() -> None:
    assert layers([]) == []


# Metadata


def test_metadata_gives_every_onnx_node_the_figures_of_its_operation(report: Report) -> None:
    metadata = node_metadata(report.document)
    op = report.document.ops[0]
    assert set(metadata) == {node for op in report.document.ops for node in op.onnx_nodes}
    assert metadata[op.onnx_nodes[0]] == metadata[op.onnx_nodes[1]]
    assert metadata[op.onnx_nodes[0]]["codesign.operation"] == f"{op.name} ({op.op})"
    assert all(isinstance(value, str) for figures in metadata.values() for value in figures.values())
