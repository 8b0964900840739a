"""Batches on a Ray cluster: the rules with workers in this process, and all commands on Ray itself in one slow test."""

from __future__ import annotations

import copy
import hashlib
import importlib.util
import json
import os
import pickle
import re
import socket
import subprocess
import sys
from contextlib import contextmanager, nullcontext
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from paramisp_cli import __version__, errors
from paramisp_cli.batch import cluster as clusters
from paramisp_cli.batch import find, on_ray, outputs, run
from paramisp_cli.batch.cluster import Cluster, Start, Worker, planned
from paramisp_cli.batch.outcome import Outcome
from paramisp_cli.cli.app import app
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FileAccessError, ParamispError
from paramisp_cli.formats import WriteOptions
from paramisp_cli.parameters import Settings
from paramisp_cli.types import Notice

ROOT = Path(__file__).parents[1]


@pytest.fixture
def photos(tmp_path, monkeypatch):
    """A working folder with four pictures below photos, one of them damaged."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for name in ("one.jpg", "trip/two.jpg", "trip/three.png"):
        path = tmp_path / "photos" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.normal(110, 25, (64, 96, 3)).clip(0, 255).astype(np.uint8)).save(path)
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"not a picture")
    return tmp_path / "photos"


def digests(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and path.suffix != ".lock")
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def jobs_of(folder: Path, out: str, on_exists: str = "error") -> list[find.Job]:
    found = find.search([folder], (".jpg", ".png"), recursive=True).inputs
    return find.assign([folder], found, out, ".dng", Direction.UNPROCESS, find.OnExists(on_exists))


def converted(cluster: Cluster, jobs: list[find.Job], on_exists: str = "error") -> dict[str, Outcome]:
    policy = outputs.Policy(find.OnExists(on_exists))
    settings = Settings(model="parametric")
    found = list(on_ray.run(cluster, jobs, Direction.UNPROCESS, settings, WriteOptions(), policy))
    assert len(found) == len(jobs)
    return {outcome.job.source.name: outcome for outcome in found}


# --- without Ray ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "words", "message"),
    [
        ("unprocess", ["--ray", "nowhere"], "--ray nowhere: give local, auto, or HOST:PORT"),
        ("unprocess", ["--ray", ""], "--ray : give local"),
        ("render", ["--ray", "ray://head:10001"], "run paramisp on a machine of the cluster, with auto"),
        ("render", ["--ray", "local", "--ray-cpus", "0"], "--ray-cpus must be at least 1, got 0"),
        ("unprocess", ["--ray-cpus", "2"], "--ray-cpus: is for workers of --ray"),
        ("unprocess", ["--ray", "local", "-o", "-"], "leave out --ray"),
        ("unprocess", ["--ray", "auto", "--device", "cuda:1"], "Ray gives each worker its GPU"),
        ("synth", ["--ray", "local", "--workers", "2", "-o", "set"], "--workers: are processes of this machine"),
        ("synth", ["--ray-cpus", "2", "-o", "set"], "--ray-cpus: is for workers of --ray"),
        ("synth", ["--ray", "nowhere", "-o", "set", "--model", "parametric"], "--ray nowhere: give local"),
    ],
)
def test_wrong_options(photos, command, words, message):
    done = CliRunner().invoke(app, [command, str(photos / "one.jpg"), *words])
    assert done.exit_code == 2
    assert message in done.output
    assert len(done.output.splitlines()) == 1
    assert {path.name for path in photos.parent.iterdir()} == {"photos"}


def test_without_ray_one_line_names_the_extra(photos, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    done = CliRunner().invoke(app, ["unprocess", str(photos), "--ray", "local"])
    assert done.exit_code == 2
    assert done.output == (
        "paramisp: --ray needs Ray Data: `pip install 'paramisp[ray]'` on every machine of the cluster\n"
    )


def test_a_head_that_does_not_answer(tmp_path, monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray" / "ray_current_cluster").write_text(address)  # as a killed cluster leaves it
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    for given, value in ((address, ""), ("auto", address), ("auto", "")):
        monkeypatch.setenv("RAY_ADDRESS", value)
        with (
            pytest.raises(ConfigError, match=rf"`ray` {address}: no cluster answers there"),
            clusters.connected(given, 1),
        ):
            pass


@pytest.mark.slow
def test_a_plain_batch_imports_no_ray():
    script = "import sys; import paramisp_cli.batch.on_ray, paramisp_cli.cli.app; print('ray' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"


def test_what_travels_is_unchanged():
    from paramisp_cli.runner import NotEnoughMemoryError

    memory = NotEnoughMemoryError("needs 3 GB", "`max_memory` 4GB").named("a.jpg")
    assert str(memory) == "a.jpg: needs 3 GB; pass `max_memory` 4GB, or `model` parametric"
    for error in (memory, errors.MetadataError("no ISO; pass `iso`"), FileAccessError("x", "scratch")):
        for again in (pickle.loads(pickle.dumps(error)), copy.copy(error)):
            assert (type(again), str(again), again.field) == (type(error), str(error), error.field)
    again = pickle.loads(pickle.dumps(Notice("a.jpg: odd", "odd files")))
    assert (again, again.summary) == ("a.jpg: odd", "odd files")


def test_workers_refuse_another_version_and_another_disk(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    start = pickle.dumps(Start(str.upper, str(tmp_path), __version__, {}))
    assert pickle.loads(Worker(start)({"number": 3, "task": pickle.dumps("a")})["result"]) == "A"
    failed = pickle.loads(Worker(start)({"number": 3, "task": pickle.dumps(1)})["result"])
    assert isinstance(failed, ParamispError)
    assert re.fullmatch(r"internal error on \S+: TypeError: .*", str(failed))
    with pytest.raises(ConfigError, match=rf"has paramisp {__version__}, this machine 0\.0\.1"):
        Worker(pickle.dumps(Start(str.upper, str(tmp_path), "0.0.1", {})))
    with pytest.raises(ConfigError, match=r"does not see the folder .*gone: No such file"):
        Worker(pickle.dumps(Start(str.upper, str(tmp_path / "gone"), __version__, {})))


def test_machines_are_divided_among_workers():
    class Ray:
        machines = ({"CPU": 5.0, "GPU": 2.0}, {"CPU": 3.0}, {})

        def nodes(self):
            return [{"Alive": True, "Resources": each} for each in self.machines] + [
                {"Alive": False, "Resources": {"CPU": 9.0}}
            ]

    assert planned(Ray(), 2, False, set()) == Cluster(3, {"num_cpus": 2.0}, 2, set())
    assert planned(Ray(), 2, True, set()) == Cluster(2, {"num_gpus": 1.0}, 1, set())
    with pytest.raises(ConfigError, match=r"`ray_cpus` 6: no machine .*; the largest has 5"):
        planned(Ray(), 6, False, set())


def test_the_size_of_tasks():
    assert [on_ray._size(count, 4) for count in (1, 64, 128, 100_000)] == [1, 1, 2, 8]
    assert on_ray._size(1_000_000, 4) == 50  # no more than 20 000 tasks


def test_a_worker_that_ends(photos, cluster, ends, monkeypatch):
    """One file ends its worker once and one always; of the files in its hands, finished ones are done."""
    monkeypatch.setattr(on_ray, "_size", lambda count, workers: 2)
    jobs = jobs_of(photos, "raws")
    assert [job.source.name for job in jobs] == ["bad.jpg", "one.jpg", "three.png", "two.jpg"]
    ends |= {"bad.jpg": 1, "three.png": 2}
    real = on_ray.mapped

    def finished(cluster, work, tasks):
        """Let the worker of the first task end only after its second file."""
        if len(tasks) == 2:
            list(run.once(tasks[0].jobs, Direction.UNPROCESS, work.settings, work.options, work.policy, None))
        yield from real(cluster, work, tasks)

    monkeypatch.setattr(on_ray, "mapped", finished)
    found = converted(cluster, jobs)
    assert {name: outcome.status for name, outcome in found.items()} == {
        "bad.jpg": "failed", "one.jpg": "done", "three.png": "failed", "two.jpg": "done",
    }  # fmt: skip
    assert "not a JPEG" in str(found["bad.jpg"].error)
    error = found["three.png"].error
    assert isinstance(error, FileAccessError)
    assert "three.png: the Ray worker that converted it ended twice" in str(error)
    assert {*digests(Path("raws"))} == {"one.dng", "trip/two.dng"}


def test_a_file_that_was_there_before_is_no_result_of_a_lost_worker(photos, cluster, ends):
    jobs = jobs_of(photos, "raws")
    Path("raws").mkdir()
    Path("raws/one.dng").write_bytes(b"own")
    ends["one.jpg"] = 1
    found = converted(cluster, jobs)
    assert "exists already" in str(found["one.jpg"].error)
    assert Path("raws/one.dng").read_bytes() == b"own"


@pytest.mark.slow
def test_the_command_with_a_page(photos, cluster, monkeypatch):
    """Reports, notices and thumbnails of workers are those of one machine."""

    @contextmanager
    def connected(address, cpus, *, gpus, verbose):
        assert (address, cpus, gpus, verbose) == ("local", 2, True, False)
        yield cluster

    monkeypatch.setattr(clusters, "connected", connected)
    monkeypatch.setattr(clusters, "check", lambda address, cpus: None)
    told = {}
    for name, more in (("here", []), ("ray", ["--ray", "local"])):
        words = ["unprocess", "photos", "-r", "-o", name, "--model", "parametric", "--report", f"{name}.html", *more]
        done = CliRunner().invoke(app, words)
        assert done.exit_code == 1, done.output
        assert sorted(done.stdout.split()) == [f"{name}/one.dng", f"{name}/trip/three.dng", f"{name}/trip/two.dng"]
        text = re.sub(r"\[\d/4\]|\(\d+\.\d s\)", "", done.stderr).replace(name, "")
        page = Path(f"{name}.html").read_text()
        told[name] = sorted(text.splitlines()), sorted(re.findall(r'src="data:[^"]+"', page))
        assert len(told[name][1]) == 6
    assert told["here"] == told["ray"]
    assert digests(Path("here")) == digests(Path("ray"))


def test_fail_fast(photos, cluster, ends, monkeypatch):
    monkeypatch.setattr(clusters, "connected", lambda *_, **__: nullcontext(cluster))
    monkeypatch.setattr(clusters, "check", lambda address, cpus: None)
    monkeypatch.setattr(on_ray, "_size", lambda count, workers: 4)
    (photos / "trip" / "worse.jpg").write_bytes(b"nor this")  # the fixture does the last task first
    done = CliRunner().invoke(app, ["unprocess", "photos", "-r", "-o", "raws", "--ray", "local", "--fail-fast"])
    assert done.exit_code == 1
    assert "0 done, 0 skipped, 1 failed, 4 not tried" in done.stderr
    assert not list(Path().rglob("*.dng"))


# --- with Ray ---------------------------------------------------------------------------------------------------------

SCRIPT = """
import contextlib, io, json, os, sys
import ray
ray.init("local", num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="error")
from paramisp_cli.batch.cluster import connected, mapped
from paramisp_cli.cli import app
from paramisp_cli.errors import ParamispError
found = []
for words in json.loads(sys.argv[1]):
    sys.argv, streams = ["paramisp", *words], (io.StringIO(), io.StringIO())
    with contextlib.redirect_stdout(streams[0]), contextlib.redirect_stderr(streams[1]):
        try:
            app.main()
        except SystemExit as stop:
            code = stop.code
    found.append([code, *(stream.getvalue() for stream in streams)])
sums = ["1+1", "__import__('os')._exit(1)", "2+2", "__import__('os').getcwd()"]
with connected("auto", 1) as cluster:
    found.append(sorted(map(list, mapped(cluster, eval, sums))))
    for text in ("1/0", "__import__('paramisp_cli').Settings(iso=-1)"):
        try:
            list(mapped(cluster, eval, [text]))
        except ParamispError as error:
            found.append([type(error).__name__, str(error)])
    os.mkdir("gone")
    os.chdir("gone")
    os.rmdir("../gone")
    os.getcwd = lambda: "/nonexistent/gone"
    try:
        list(mapped(cluster, eval, ["1"]))
    except ParamispError as error:
        found.append([type(error).__name__, str(error)])
print("RESULT " + json.dumps(found))
"""


@pytest.mark.slow
def test_ray_itself(photos):
    """Everything on one cluster of two workers, because Ray takes seconds to start."""
    pytest.importorskip("ray", reason="needs Ray")
    unprocess = ["unprocess", "photos", "-r", "--model", "parametric"]
    synth = ["synth", "photos", "--model", "parametric", "--camera", "Nikon D90", "--shard", "1", "--patch", "32"]
    on = ["--ray", "auto", "--ray-cpus", "1"]
    commands = [
        [*unprocess, "-o", "here"],
        [*unprocess, "-o", "ray", *on],
        [*unprocess, "-o", "ray", *on, "--json", "--on-exists", "skip"],
        ["render", "here", "-r", "-o", "shown-here", "--format", "png"],
        ["render", "here", "-r", "-o", "shown", "--format", "png", *on, "--report", "page.html"],
        [*synth, "-o", "set-here", "--workers", "1"],
        [*synth, "-o", "set", *on],
        [*unprocess, "-o", "ray", "--ray", "auto", "--ray-cpus", "99"],
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PARAMISP_WEIGHTS": ""}
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, json.dumps(commands)],
        capture_output=True, text=True, check=False, env=environment, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("RESULT "), done.stdout  # no line of Ray on stdout
    here, ray, again, _, shown, _, made, wide, sums, *failures = json.loads(done.stdout.removeprefix("RESULT "))

    assert here[0] == ray[0] == 1
    assert sorted(ray[1].split()) == ["ray/one.dng", "ray/trip/three.dng", "ray/trip/two.dng"]
    plain = [sorted(re.sub(r"\[\d/4\]|\(\d+\.\d s\)", "", each[2]).splitlines()) for each in (here, ray)]
    assert plain[0] == plain[1]
    assert digests(Path("here")) == digests(Path("ray"))
    assert again[0] == 1
    statuses = {Path(line["input"]).name: line["status"] for line in map(json.loads, again[1].splitlines())}
    assert statuses == {"bad.jpg": "failed", "one.jpg": "skipped", "two.jpg": "skipped", "three.png": "skipped"}
    assert shown[0] == 0
    assert len(digests(Path("shown"))) == 3
    assert digests(Path("shown")) == digests(Path("shown-here"))
    assert Path("page.html").read_text().count("<img") == 6
    assert made[0] == 1  # the damaged picture
    assert digests(Path("set")) == digests(Path("set-here"))
    assert wide[0] == 2
    assert wide[2] == "paramisp: --ray-cpus 99: no machine of the cluster has so many CPUs; the largest has 2\n"

    assert sums == [[0, 2], [1, None], [2, 4], [3, str(photos.parent)]]
    assert [kind for kind, _ in failures] == ["ParamispError", "ConfigError", "ConfigError"]
    assert re.fullmatch(r"internal error on \S+: ZeroDivisionError: division by zero", failures[0][1])
    assert failures[1][1] == "`iso` must be a positive number, got -1"
    assert re.match(r"`ray`: \S+ does not see the folder /nonexistent/gone: No such file", failures[2][1])
