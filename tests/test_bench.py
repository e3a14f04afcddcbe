import pytest
from rich.console import Console

from codesign.engine import run
from codesign.errors import BadParameter
from codesign.study import bench as subject
from codesign.study import bench_executor, peers
from codesign.study.bench import Effort, Figure
from codesign.study.bench_engine import SHAPES, pipeline, simpy_pipeline

TINY = Effort(repeats=1, firings=300, points=2)


def printed(figures):
    console = Console(width=140, record=True)
    console.print(subject.table("title", figures))
    return console.export_text()


@pytest.fixture
def script(tmp_path, monkeypatch):
    """Write a script of a given body where the bench looks for its own."""
    monkeypatch.setattr(peers, "SCRIPTS", tmp_path)
    return lambda body: (tmp_path / "peer.py").write_text(body)


@pytest.mark.parametrize(
    ("figure", "met", "ratio"),
    [
        (Figure("a time", 2.0, target=3.0, theirs=8.0), True, 4.0),
        (Figure("a time", 2.0, target=1.0, theirs=1.0), False, 0.5),
        (Figure("a rate", 2.0, "points", target=3.0, theirs=1.0), False, 2.0),
        (Figure("a size", 2.0, "B", target=3.0), True, None),
        (Figure("a time", 2.0), None, None),
    ],
)
def test_a_figure_is_held_against_its_target_and_its_peer(figure, met, ratio):
    assert figure.met is met
    assert figure.times_better == ratio


def test_the_table_shows_both_times_and_their_ratio():
    text = printed([Figure("walk", 0.5, target=0.1, peer="other 1.0", theirs=100.0)])
    for cell in ("walk", "500 ms", "100 ms", "NO", "other 1.0", "100 s", "200x"):
        assert cell in text


def test_large_ratios_are_whole_numbers():
    assert "1,795x" in printed([Figure("map", 0.001, peer="other", theirs=1.7952)])


def test_simpy_runs_the_pipeline_to_the_same_tick():
    assert simpy_pipeline(300) == run(pipeline(300)).end


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_runs_about_the_firings_asked_for(name):
    timeline = run(SHAPES[name](1280), skip=False)
    assert 1200 <= timeline.simulated <= 1280


def test_the_engine_section_has_a_figure_a_shape():
    figures = list(subject.engine_figures(TINY, peers=False))
    assert [figure.name for figure in figures] == list(SHAPES)
    assert [figure.peer for figure in figures].count("simpy") == 1


def test_operators_are_timed_without_peers_unless_asked():
    figures = list(subject.mapping_figures(TINY, peers=False))
    assert len(figures) == 2
    assert all(figure.ours > 0 and not figure.peer for figure in figures)


def test_a_sweep_is_counted_in_points():
    figure = subject._sweep(Effort(repeats=1, points=10))
    assert figure.unit == "points"
    assert "10 NPUs" in figure.name


def test_a_script_gets_its_task_and_gives_its_result(script):
    script("import json, sys; print('noise'); print(json.dumps({'seconds': json.loads(sys.argv[1])['n']}))")
    assert peers.run_script("peer", {"n": 3}) == {"seconds": 3}


def test_a_script_sees_no_setting_for_another_processor(script, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    script("import json, os; print(json.dumps(dict(os.environ)))")
    seen = peers.run_script("peer", {})
    assert "OPENBLAS_CORETYPE" not in seen
    assert seen["OPENBLAS_NUM_THREADS"] == "1"


@pytest.mark.parametrize(
    ("body", "reason"),
    [("import no_such_tool", "no_such_tool"), ("raise SystemExit(3)", "exit code 3"), ("print('hello')", "no result")],
)
def test_a_peer_that_fails_is_a_reason_not_a_crash(script, body, reason):
    script(body)
    figure = subject._beside(Figure("walk", 0.5), True, "other", "peer", {})
    assert figure.theirs is None
    assert reason in figure.failure
    assert "other" in printed([figure])


def test_a_peer_that_cannot_be_installed_is_a_reason_not_a_crash(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    peer = peers.Peer((f"{tmp_path}/no-such-package",))
    figure = subject._beside(Figure("walk", 0.5), True, peer, "peer", {})
    assert figure.theirs is None
    assert figure.failure


def test_an_installed_peer_is_not_installed_again(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    peer = peers.Peer(("tool==1.0", "six"))
    assert peer.name == "tool 1.0"
    peer.folder.mkdir(parents=True)
    (peer.folder / "installed").touch()
    monkeypatch.setattr(peers, "_call", lambda *_: pytest.fail("installed again"))
    assert peer.folder in peer.python().parents


def test_a_definition_is_measured_in_a_process_of_its_own():
    found = peers.run_script("build_model", {"model": "vit_tiny"})
    assert found["seconds"] > 0
    assert 10e6 < found["bytes"] < 1e9


def test_the_executor_and_its_peer_run_the_same_network_in_processes_of_their_own(tmp_path):
    case = bench_executor._exported("mlperf_tiny_kws", 2.0, tmp_path)
    costs = [bench_executor._cost(case, by, 1, 1) for by in ("codesign", "onnxruntime", "reference")]
    for cost in costs:
        assert cost.processor > 0
        assert cost.seconds > 0
        assert 10e6 < cost.bytes < 1e9
    assert costs[0].less(costs[1]).seconds == min(costs[0].seconds, costs[1].seconds)


def test_sections_are_chosen_by_name(monkeypatch):
    console = Console(width=100, record=True)
    monkeypatch.setitem(subject.SECTIONS, "engine", ("Events", lambda effort, peers: iter([Figure("one", 1.0)])))
    subject.bench(console, peers=False, sections=["engine"])
    assert "Events" in console.export_text()
    with pytest.raises(BadParameter, match="no section 'engines'; did you mean engine"):
        subject.bench(console, peers=False, sections=["engines"])
