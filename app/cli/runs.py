"""`halflayer runs`: submit, list, watch, cancel and download over REST."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from app.cli.client import FINAL_STATES, Client, ClientError, Refused
from app.cli.connect import DataDir, Server, Token, connect
from app.cli.terminal import RunBars, console, duration, result_table, runs_table

app = typer.Typer(help="Submit, list, watch, cancel and download runs.", no_args_is_help=True)
RunId = Annotated[str, typer.Argument(help="Id of the run.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print the response of the server as JSON.")]


@app.command("list")
def list_runs(
    state: Annotated[str | None, typer.Option(help="Only runs in this state.")] = None,
    kind: Annotated[str | None, typer.Option(help="teacher, prune or distill.")] = None,
    query: Annotated[
        str | None, typer.Option("--query", "-q", help="Part of the name, or an id.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=200)] = 20,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """List runs, newest first."""
    with connect(server, token, data_dir) as client:
        page = client.runs(state=state, kind=kind, q=query, limit=limit)
    if as_json:
        _print_json(page)
        return
    console.print(runs_table(page["items"]))
    if page["total"] > len(page["items"]):
        console.print(f"{page['total'] - len(page['items'])} more; --limit shows them", style="dim")


@app.command()
def submit(
    source: Annotated[str, typer.Argument(help="A preset id, or a JSON config file.")],
    name: Annotated[str | None, typer.Option(help="Name of the run.")] = None,
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY.PATH=VALUE", help="Override a field; can be repeated."),
    ] = None,
    watch_it: Annotated[bool, typer.Option("--watch", help="Watch until it ends.")] = False,
    as_json: AsJson = False,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Submit a run or a pipeline from a preset or a file."""
    with connect(server, token, data_dir) as client:
        config = _load_config(client, source)
        for change in changes or []:
            apply_change(config, change)
        if "kind" in config:
            runs = [client.submit_run(config, name)]
        else:
            runs = client.submit_pipeline(config, name)
        if as_json:
            _print_json(runs)
        else:
            console.print(runs_table(runs))
        if watch_it:
            _watch_all(client, [run["id"] for run in runs])


@app.command()
def watch(
    run_ids: Annotated[list[str], typer.Argument(help="Ids of the runs.")],
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Show progress and time left until the runs have ended."""
    with connect(server, token, data_dir) as client:
        _watch_all(client, run_ids)


@app.command()
def cancel(
    run_id: RunId, server: Server = None, token: Token = None, data_dir: DataDir = None
) -> None:
    """Stop a run permanently, without a checkpoint; dependent runs are skipped."""
    with connect(server, token, data_dir) as client:
        run = client.cancel(run_id)
    console.print(f"run {run['id']} is {run['state']}")


@app.command()
def download(
    run_id: RunId,
    folder: Annotated[
        Path | None, typer.Option("--to", help="Target folder; default: the id of the run.")
    ] = None,
    server: Server = None,
    token: Token = None,
    data_dir: DataDir = None,
) -> None:
    """Download the checkpoint of a run, verified; an interrupted download resumes."""
    folder = folder or Path(run_id)
    with connect(server, token, data_dir) as client:
        size_bytes = sum(file["size_bytes"] for file in client.artifacts(run_id))
        columns = (TextColumn(run_id), BarColumn(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=console) as bar:
            task = bar.add_task("", total=size_bytes)
            files = client.download(run_id, folder, lambda size: bar.advance(task, size))
    console.print(f"{len(files)} files in {folder}, verified by SHA-256")


def apply_change(config: dict[str, Any], change: str) -> None:
    """Set one field, given as `key.path=value`; the value is JSON or plain text."""
    path, equals, text = change.partition("=")
    keys = path.split(".")
    if not equals or not all(keys):
        raise typer.BadParameter(f"{change!r} is not KEY.PATH=VALUE")
    try:
        value = json.loads(text)
    except json.JSONDecodeError:
        value = text
    place = config
    for key in keys[:-1]:
        place = place.setdefault(key, {})
        if not isinstance(place, dict):
            raise typer.BadParameter(f"{key!r} in {path!r} is not an object")
    place[keys[-1]] = value


def _load_config(client: Client, source: str) -> dict[str, Any]:
    path = Path(source)
    if path.suffix != ".json" and not path.exists():
        presets = client.presets()
        for preset in presets:
            if preset["id"] == source:
                config: dict[str, Any] = preset["config"]
                return config
        known = ", ".join(preset["id"] for preset in presets)
        raise Refused(f"{source!r} is neither a file nor a preset; presets: {known}")
    try:
        # As bytes: `loads` accepts the byte order mark of Windows editors.
        loaded = json.loads(path.read_bytes())
    except (OSError, ValueError) as error:
        raise ClientError(f"{source} cannot be read: {error}") from None
    if not isinstance(loaded, dict):
        raise ClientError(f"{source} must contain one JSON object")
    return loaded


def _watch_all(client: Client, run_ids: list[str]) -> None:
    ended = []
    with RunBars() as bars:
        for run_id in run_ids:
            bars.show(client.run(run_id))
        for run_id in run_ids:
            for event, data in client.events(run_id):
                if event == "run":
                    bars.show(data)
            run = client.run(run_id)
            bars.show(run)
            ended.append(run)
    for run in ended:
        _print_end(run)
    if any(run["state"] != "succeeded" for run in ended):
        raise typer.Exit(1)


def _print_end(run: dict[str, Any]) -> None:
    assert run["state"] in FINAL_STATES
    line = f"{run['kind']} {run['id']} {run['state']}"
    result = run["result"] or {}
    if "elapsed_s" in result:
        line += f" after {duration(result['elapsed_s'])}"
    if run["error"]:
        line += f": {run['error']['message']}"
    console.print(line, markup=False)
    if result:
        console.print(result_table(run))


def _print_json(value: Any) -> None:
    console.print_json(json.dumps(value))
