"""The command line: thin commands over the Python interface. Everything heavy is imported by the command that needs it.

Errors of the user's making are one line on standard error and exit code 2; `--debug` shows where they came from.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

import typer

from codesign.cli_options import (
    BatchOption,
    BindOption,
    DeviceOption,
    DtypeOption,
    FidelityOption,
    InputsOption,
    ModelArgument,
    SeedInputsOption,
    SeedWeightsOption,
    SetOption,
    StatisticsOption,
    TopOption,
    check_writable,
    limits_of,
    load_model,
    load_to_run,
    progress,
    settings_of,
    sizes,
    warn,
    with_progress,
    write_text,
)
from codesign.errors import BadParameter, CodesignError

if TYPE_CHECKING:
    from codesign.executor import Executor
    from codesign.graph import Graph
    from codesign.numerics import Policy
    from codesign.report.report import Report

Item = TypeVar("Item")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    help="Simulate neural networks on GPUs, NPUs, PIM DRAM, microcontrollers and CPUs; sweep the hardware; see why. "
    "With --debug anywhere, an error shows where it came from.",
)

@app.command()
def inspect(
    model: ModelArgument,
    batch: BatchOption = None,
    bind: BindOption = None,
    dtype: Annotated[
        str | None, typer.Option(help="element type that floats are counted in: fp16, int8, ... (default: as stored)")
    ] = None,
    top: TopOption = 20,
    raw: Annotated[bool, typer.Option("--raw", help="the graph as loaded, before fusion")] = False,
    json: Annotated[
        Path | None, typer.Option(help="also write all operations, or all statistics, as JSON ('-': standard output)")
    ] = None,
    statistics: Annotated[
        bool, typer.Option("--statistics", help="run the model; list ranges, densities, patterns of zeros, routing")
    ] = False,
    inputs: InputsOption = None,
    seed_inputs: SeedInputsOption = None,
    seed_weights: SeedWeightsOption = None,
) -> None:
    """List a model's operations, parameters, MACs, bytes, arithmetic intensity and peak live memory; or, with
    --statistics, what its values are like on the inputs given."""
    check_writable(json)
    if statistics:
        from codesign.report.statistics import statistics_view
        from codesign.statistics import measure

        graph, feeds = load_to_run(model, batch, bind, inputs, seed_inputs)
        graph = measure(graph, feeds, seed_weights, fused=not raw)
        assert graph.statistics is not None
        view, text = statistics_view(graph, top), graph.statistics.to_json()
    else:
        from codesign.study.inspect import inspect as inspect_graph

        graph = load_model(model, batch, bind)
        found = inspect_graph(graph, dtype, fused=not raw)
        view, text = found.table(top), found.to_json()
    if json is None or str(json) != "-":
        from rich.console import Console

        Console().print(view)
    warn(graph.warnings)
    if json is not None:
        write_text(json, text)


@app.command()
def simulate(
    model: ModelArgument,
    device: DeviceOption,
    dtype: DtypeOption = None,
    batch: BatchOption = None,
    bind: BindOption = None,
    settings: SetOption = None,
    fidelity: FidelityOption = "event",
    top: TopOption = 10,
    json: Annotated[Path | None, typer.Option(help="write the result as JSON ('-': standard output)")] = None,
    html: Annotated[Path | None, typer.Option(help="write a self-contained HTML report")] = None,
    trace: Annotated[Path | None, typer.Option(help="write a trace for ui.perfetto.dev")] = None,
    onnx: Annotated[Path | None, typer.Option(help="write the model back with latency and energy on its nodes")] = None,
    statistics: StatisticsOption = None,
    inputs: Annotated[Path | None, typer.Option(help="measure densities and routing on these inputs (.npz)")] = None,
    seed_inputs: Annotated[int | None, typer.Option(help="measure them on inputs made from this seed")] = None,
    seed_weights: SeedWeightsOption = None,
) -> None:
    """Simulate a model on a device: latency, energy, memory, and where the time goes.

    With statistics, or inputs to measure them on, a device that skips zeros is given what zeros there are.
    """
    from codesign.registry import device as find_device
    from codesign.simulation import simulate as run

    chosen = find_device(device, **settings_of(settings))
    if inputs is not None or seed_inputs is not None:
        from codesign.statistics import measure

        if statistics is not None:
            raise BadParameter("--statistics takes the place of --inputs and --seed-inputs: give one of them")
        graph = measure(*load_to_run(model, batch, bind, inputs, seed_inputs), seed_weights)
    else:
        graph = load_model(model, batch, bind, statistics)
    report = run(graph, chosen, dtype=dtype, fidelity=fidelity)
    if json is None or str(json) != "-":  # shown before it is written: a path that fails loses nothing
        report.print(top=top)
    if json is not None:
        write_text(json, report.to_json())
    if html is not None:
        report.to_html(html)
    if trace is not None:
        report.to_trace(trace)
    if onnx is not None:
        _annotate(model, batch, bind, onnx, report)


def _annotate(model: str, batch: int | None, bind: list[str] | None, out: Path, report: Report) -> None:
    """Write the ONNX file with each node's figures; a zoo model is built again, as it has no file."""
    from codesign.frontend import annotate
    from codesign.model import ZOO
    from codesign.report.metadata import node_metadata

    source: Any = model
    if model.startswith(ZOO):
        import workloads

        source = workloads.build(model.removeprefix(ZOO), batch=batch or 1, bind=sizes(bind))
    annotate(source, out, node_metadata(report.document))


@app.command()
def explain(
    model: ModelArgument,
    device: DeviceOption,
    dtype: DtypeOption = None,
    batch: BatchOption = None,
    bind: BindOption = None,
    settings: SetOption = None,
    fidelity: FidelityOption = "event",
    top: TopOption = 8,
    statistics: StatisticsOption = None,
) -> None:
    """Say what bounds a model on a device, what waits, and how far each parameter would move latency and energy."""
    from rich.console import Console

    from codesign.study.explain import explain as run

    graph = load_model(model, batch, bind, statistics)
    Console().print(run(graph, device, dtype, fidelity, settings_of(settings), top))
    warn(graph.warnings)


@app.command()
def generate(
    model: ModelArgument,
    device: DeviceOption,
    prompt: Annotated[int, typer.Option(min=1, help="tokens of each prompt")],
    tokens: Annotated[int, typer.Option(min=1, help="tokens generated for each sequence")],
    batch: Annotated[int, typer.Option(min=1, help="sequences generated together")] = 1,
    dtype: DtypeOption = None,
    decode: Annotated[
        str | None, typer.Option(help="model of a decode step (default: zoo:NAME_decode, or the same file)")
    ] = None,
    sequence: Annotated[str, typer.Option(help="the model's name for the number of new tokens")] = "sequence",
    past: Annotated[str, typer.Option(help="the model's name for the number of tokens in the cache")] = "past",
    bind: BindOption = None,
    settings: SetOption = None,
    fidelity: FidelityOption = "event",
    json: Annotated[Path | None, typer.Option(help="write the result as JSON ('-': standard output)")] = None,
    csv: Annotated[Path | None, typer.Option(help="write every step's time, energy and memory as CSV")] = None,
    html: Annotated[Path | None, typer.Option(help="write the figure of time and memory over the context")] = None,
) -> None:
    """Simulate text generation: time to the first token and for each further one, tokens/s, energy, memory."""
    from codesign.registry import device as find_device
    from codesign.study.generation import Dimensions
    from codesign.study.generation import generate as run

    check_writable(json, csv, html)
    found = run(
        model, find_device(device, **settings_of(settings)), prompt, tokens, batch, dtype, fidelity, decode,
        Dimensions(sequence, past), sizes(bind),
    )  # fmt: skip
    if json is None or str(json) != "-":
        from rich.console import Console

        Console().print(found)
    if json is not None:
        write_text(json, found.to_json())
    if csv is not None:
        found.steps.to_csv(csv, index=False)
    if html is not None:
        from codesign.report.html import figure_page

        html.write_text(figure_page(found.to_figure()), encoding="utf-8")


@app.command()
def execute(
    model: ModelArgument,
    outputs: Annotated[
        Path | None, typer.Option(help="where the outputs are written (.npz); needed without --numerics")
    ] = None,
    inputs: InputsOption = None,
    seed_inputs: SeedInputsOption = None,
    seed_weights: SeedWeightsOption = None,
    batch: BatchOption = None,
    bind: BindOption = None,
    numerics: Annotated[
        str | None,
        typer.Option(
            help="compute in these number formats and compare with exact arithmetic: int8, w4a16, fp8-e4m3, bf16, ... "
            "(an unknown name lists all), or a policy's YAML file"
        ),
    ] = None,
    calibrate: Annotated[
        list[Path] | None, typer.Option(help="inputs (.npz) that ranges of activations are calibrated on; repeatable")
    ] = None,
    json: Annotated[Path | None, typer.Option(help="write the comparison as JSON ('-': standard output)")] = None,
    top: Annotated[int, typer.Option(min=1, help="how many of the operations that lose most to show")] = 10,
    quantised: Annotated[
        Literal["fused", "standard", "saturating"],
        typer.Option(
            help="fused: dequantised values are computed on as integers, as onnxruntime's optimiser does; standard: as "
            "floats; saturating: fused, bytes multiplied as by x86 processors without VNNI"
        ),
    ] = "fused",
    max_trips: Annotated[
        int | None, typer.Option(min=1, help="trips that a loop may take (default: 1,000,000)")
    ] = None,
    max_memory: Annotated[
        str | None, typer.Option(help="memory that results may take, as 8GiB (default: what is free)")
    ] = None,
) -> None:
    """Run a model's numbers on this machine and write its outputs. Symbolic dimensions follow the inputs given."""
    from codesign.executor import Executor, SaturatingPairs, limits
    from codesign.numerics import policy
    from codesign.transforms import optimise

    if outputs is None and numerics is None:
        raise BadParameter("to run the model, say with --outputs FILE.npz where its outputs are written")
    if numerics is None and (calibrate or json):
        raise BadParameter(f"{'--calibrate' if calibrate else '--json'} goes with --numerics: name the number formats")
    if numerics is not None and quantised == "saturating":
        raise BadParameter("--quantised saturating is an arithmetic of its own: leave out --numerics")
    check_writable(outputs, json)
    chosen = None if numerics is None else policy(numerics)
    graph, feeds = load_to_run(model, batch, bind, inputs, seed_inputs, dynamic=True)
    order: Literal["fused", "standard"] = "standard" if quantised == "standard" else "fused"
    with limits.use(limits_of(max_trips, max_memory)):
        if chosen is not None:
            results = _compare_numerics(graph, chosen, feeds, seed_weights, calibrate, order, json, top)
        else:
            arithmetic = SaturatingPairs() if quantised == "saturating" else None
            results = _run(Executor(optimise(graph, order), arithmetic, seed_weights=seed_weights), feeds)
    if outputs is not None:
        _write_outputs(outputs, results, quiet=str(json) == "-")
    warn(graph.warnings)


def _run(executor: Executor, feeds: dict[str, Any]) -> dict[str, Any]:
    """A run that shows how far it is: kernels are compiled the first time they are needed on a machine."""
    place = {op.name: number for number, op in enumerate(executor.graph.ops, start=1)}
    with progress("operations") as advance:
        return executor.run(feeds, lambda op, _: advance(place[op.name], len(place)) if op.name in place else None)


def _compare_numerics(
    graph: Graph,
    numerics: Policy,
    feeds: dict[str, Any],
    seed_weights: int | None,
    calibrate: list[Path] | None,
    quantised: Literal["fused", "standard"],
    json: Path | None,
    top: int,
) -> dict[str, Any]:
    """Show what the number formats cost, and return the outputs computed in them."""
    from codesign.study.accuracy import accuracy
    from codesign.study.arrays import read_arrays

    samples = [read_arrays(path) for path in calibrate] if calibrate else None
    with progress("operations") as advance:
        report = accuracy(graph, numerics, feeds, seed_weights, samples, progress=advance, quantised=quantised)
    if json is None or str(json) != "-":
        report.print(top=top)
    if json is not None:
        write_text(json, report.to_json())
    return report.outputs


def _write_outputs(path: Path, results: dict[str, Any], quiet: bool) -> None:
    from codesign.study.arrays import flattened, write_arrays

    arrays = flattened(results)
    write_arrays(path, arrays)
    for name, values in arrays.items() if not quiet else ():
        typer.echo(f"{name}: {values.dtype} {list(values.shape)}")


@app.command()
def ops(
    device: DeviceOption,
    source: Annotated[Path, typer.Option("--from", help="CSV with the columns op, dtype, params (JSON)")],
    json: Annotated[Path, typer.Option(help="where the results are written ('-': standard output)")],
    cache: Annotated[
        Literal["cold", "warm"],
        typer.Option(help="cold: no operand is in a cache; warm: the same call ran just before"),
    ] = "cold",
    settings: SetOption = None,
    fidelity: FidelityOption = "event",
) -> None:
    """Simulate single operators from a table, one result a row, in order."""
    import json as json_module

    from codesign.registry import device as find_device
    from codesign.study.operators import read_operators, simulate_operators

    check_writable(json)
    chosen = find_device(device, **settings_of(settings))
    results = simulate_operators(chosen, read_operators(source), cache=cache, fidelity=fidelity)
    write_text(json, json_module.dumps({"ops": results}, indent=1))
    if str(json) != "-":
        typer.echo(f"{len(results)} operators simulated on {chosen.name}, {cache} cache: {json}")


@app.command()
def sweep(
    model: ModelArgument,
    device: DeviceOption,
    vary: Annotated[list[str], typer.Option(help="array.rows=8,16,32 or dram.bandwidth=1e9:16e9:5log; repeatable")],
    out: Annotated[Path, typer.Option(help="where the points are written (.parquet)")],
    objective: Annotated[str, typer.Option(help="what to make small: latency, energy, area")] = "latency,energy",
    plot: Annotated[Path | None, typer.Option(help="figure of the points (default: beside --out, as .html)")] = None,
    dtype: DtypeOption = None,
    batch: BatchOption = None,
    bind: BindOption = None,
    settings: SetOption = None,
    fidelity: FidelityOption = "event",
    processes: Annotated[int | None, typer.Option(min=1, help="how many processes (default: all cores)")] = None,
    statistics: StatisticsOption = None,
) -> None:
    """Simulate a model at every point of a grid of device parameters; mark the Pareto front.

    Interrupted, it keeps what is done; started again, it goes on from there.
    """
    from rich.console import Console

    from codesign.report.html import figure_page
    from codesign.report.sweep import sweep_figure, sweep_table
    from codesign.study.sweep import sweep as run
    from codesign.study.vary import parse_vary

    figure = plot or out.with_suffix(".html")
    if figure == out:
        raise BadParameter(f"--out {out}: the figure would be written over the points; name it with --plot")
    check_writable(out, figure)
    names = [name.strip() for name in objective.split(",")]
    axes = parse_vary(vary)
    graph = load_model(model, batch, bind, statistics)
    with progress("points") as advance:
        frame = run(graph, device, axes, names, out, dtype, fidelity, settings_of(settings), processes, advance)
    title = f"{model} on {device}"
    Console().print(sweep_table(frame, list(axes), names, title))
    figure.write_text(figure_page(sweep_figure(frame, list(axes), names, title)), encoding="utf-8")
    typer.echo(f"{len(frame)} points in {out}, figure in {figure}")


@app.command()
def workloads(
    names: Annotated[
        list[str] | None, typer.Argument(help="networks or families (default: all)", metavar="NAME")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="everything known of each, as JSON")] = False,
    table: Annotated[
        bool, typer.Option("--table", help="our counts of parameters and MACs beside the published")
    ] = False,
    page: Annotated[Path | None, typer.Option(help="write that table as a page of Markdown")] = None,
) -> None:
    """List the built-in networks with what was published about them."""
    from rich.console import Console

    from codesign.study import zoo

    chosen = zoo.chosen(names or [])
    if not (json or table or page):
        Console().print(zoo.zoo_table(chosen))
        return
    if page:
        check_writable(page)
    counted = with_progress(zoo.rows(chosen), len(chosen), "networks")
    if page:
        page.write_text(zoo.count_page(counted), encoding="utf-8")
        typer.echo(f"{len(counted)} networks in {page}", err=True)
    if table:
        Console().print(zoo.count_table(counted))
    if json:
        typer.echo(zoo.zoo_json(counted))


@app.command()
def devices() -> None:
    """List the devices."""
    from rich.console import Console

    from codesign.study.zoo import device_table

    Console().print(device_table())


@app.command()
def operators(
    json: Annotated[bool, typer.Option("--json", help="each with its versions and how it runs, as JSON")] = False,
) -> None:
    """List the operators that a model may hold, by domain, each with the first version that defines it."""
    from codesign.frontend.coverage import coverage, coverage_json, coverage_table

    found = coverage()
    if json:
        typer.echo(coverage_json(found))
        return
    from rich.console import Console

    Console().print(coverage_table(found))


@app.command()
def export(
    model: Annotated[str, typer.Argument(help="zoo:NAME", metavar="zoo:NAME")],
    output: Annotated[Path, typer.Option("--output", "-o", help="where the ONNX file is written")],
    seed_weights: Annotated[int, typer.Option("--seed-weights", help="seed of the weights")] = 0,
    no_weights: Annotated[bool, typer.Option("--no-weights", help="structure only: small, enough to simulate")] = False,
    batch: BatchOption = None,
    bind: BindOption = None,
) -> None:
    """Write a built-in network as an ONNX file."""
    import workloads as zoo
    from codesign.model import ZOO

    check_writable(output)
    seed = None if no_weights else seed_weights
    zoo.save(model.removeprefix(ZOO), output, batch=batch or 1, bind=sizes(bind), seed_weights=seed)
    typer.echo(f"{output}: {output.stat().st_size:,} bytes")


@app.command()
def validate(
    what: Annotated[
        str | None,
        typer.Argument(help="ladder, claims, onnx, a device class (gpu, npu, ...), or nothing for all but onnx"),
    ] = None,
) -> None:
    """Print predicted beside published or measured figures; fail when a stated bound is broken."""
    from rich.console import Console

    from codesign.study.validate import validate as run

    if not run(what, Console()):
        raise typer.Exit(1)


@app.command()
def calibrate(
    device_class: Annotated[
        str | None, typer.Argument(help="device class whose calibrated parameters to fit again to its own data")
    ] = None,
    named_class: Annotated[str | None, typer.Option("--class", help="the same, as an option")] = None,
    data: Annotated[
        Path | None, typer.Option(help="fit to these measurements: CSV with op, dtype, params, cold_us, warm_us")
    ] = None,
    out: Annotated[Path | None, typer.Option(help="device file to write (.yaml)")] = None,
    device: Annotated[
        str | None, typer.Option("--device", "-d", help="device to start from (default: the class's own)")
    ] = None,
) -> None:
    """Fit a device class's calibrated parameters again, or a device to measurements of your own, and print them."""
    from codesign.study.validate import calibrate as run
    from codesign.study.validate import calibrate_from

    name = device_class or named_class
    if name is None or (device_class and named_class):
        raise BadParameter("name one device class: codesign calibrate gpu, or --class gpu")
    if data is None:
        if out is not None or device is not None:
            raise BadParameter("--out and --device go with --data, the measurements to fit")
        for key, value in run(name).items():
            typer.echo(f"{key}: {value:.6g}")
        return
    from rich.console import Console

    check_writable(out)
    Console().print(calibrate_from(name, data, device, out))
    if out is not None:
        typer.echo(f"device file: {out}")


@app.command()
def bench(
    sections: Annotated[
        list[str] | None,
        typer.Argument(help="commands, simulation, models, mapping, engine, executor, formats; all when none is named"),
    ] = None,
    peers: Annotated[
        bool, typer.Option("--peers", help="install peers in environments of their own and time them")
    ] = False,
) -> None:
    """Time what must be fast, and peers on the same work in the same run."""
    from rich.console import Console

    from codesign.study.bench import bench as run

    run(Console(), peers, sections or ())


@app.command()
def schema() -> None:
    """Print the JSON schema of a simulation's result."""
    import json

    from codesign.report.schema import json_schema

    typer.echo(json.dumps(json_schema(), indent=2))


def main(arguments: list[str] | None = None) -> None:
    """Entry point. Exit codes: 0 done, 1 a stated bound is broken, 2 bad input, 130 interrupted."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    debug = "--debug" in words
    words = [word for word in words if word != "--debug"]
    try:
        app(args=words, prog_name="codesign")
    except CodesignError as error:
        if debug:
            raise
        _fail(str(error))
    except OSError as error:
        if debug:
            raise
        _fail(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    except KeyboardInterrupt:
        typer.echo("interrupted", err=True)
        sys.exit(130)


def _fail(message: str) -> None:
    typer.echo(f"error: {' '.join(message.split())}", err=True)
    sys.exit(2)
