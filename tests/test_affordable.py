"""A network that nobody asked for and that memory does not hold gives way to the parametric model, and that is said."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import numpy as np
import pytest
import torch

import paramisp_cli as paramisp
from paramisp_cli import convert, formats, parameters, weights
from paramisp_cli.directions import Direction
from paramisp_cli.errors import ConfigError, FileAccessError
from paramisp_cli.models.paramisp import ParamISP, plans


@pytest.fixture
def generic(tmp_path, monkeypatch):
    """Weights of random numbers for cameras without their own."""
    path = tmp_path / "store" / "paramisp" / "generic.unprocess.safetensors"
    path.parent.mkdir(parents=True)
    weights.save(
        ParamISP(Direction.UNPROCESS), path, camera="generic", recipe="none", training={}, metrics={}, licence="MIT"
    )
    monkeypatch.setenv("PARAMISP_WEIGHTS", str(tmp_path / "store"))
    return path


def test_gives_way_and_says_so(generic, make_jpeg, tmp_path):
    photo = make_jpeg(tmp_path / "photo.jpg")
    settings = parameters.Settings(camera="Nikon D90", max_memory=1_000_000)
    made = paramisp.unprocess(photo, settings)
    assert made.model == "parametric"
    assert made.notes[-1].startswith("paramisp needs about")
    assert made.notes[-1].endswith("(`max_memory`): used the parametric model")  # no scratch file would do
    assert not any("generic" in note for note in made.notes)
    assert paramisp.unprocess(photo, parameters.Settings(camera="Nikon D90")).model == "paramisp"


@pytest.mark.parametrize("asked", ["model", "weights"])
def test_what_was_asked_for_is_an_error(generic, make_jpeg, tmp_path, asked):
    photo = make_jpeg(tmp_path / "photo.jpg")
    wish = {"model": "paramisp"} if asked == "model" else {"weights": generic}
    with pytest.raises(ConfigError, match="needs about"):
        paramisp.unprocess(photo, parameters.Settings(camera="Nikon D90", max_memory=1_000_000, **wish))


@pytest.mark.parametrize(
    ("limit", "name"),
    [(16, "whole"), (11, "bands"), (3, "disk")],
)
def test_less_memory_takes_another_plan(generic, make_jpeg, tmp_path, limit, name):
    plain = parameters.complete(formats.read(make_jpeg(tmp_path / "photo.jpg")))
    settings = parameters.Settings(max_memory=limit * 10**9, scratch=tmp_path)
    plan = convert.affordable(plain, settings, (4000, 6000))
    assert plan.describe()["memory_plan"] == name
    assert "memory_plan" not in plain.describe()


def test_without_a_folder_the_message_asks_for_one(generic, make_jpeg, tmp_path):
    plain = parameters.complete(formats.read(make_jpeg(tmp_path / "photo.jpg")))
    settings = parameters.Settings(max_memory=3 * 10**9)
    fast = convert.affordable(plain, settings, (4000, 6000))
    assert (fast.architecture, fast.memory_plan) == ("parametric", None)
    assert fast.notices[-1] == (
        "paramisp needs about 10.4 GB for 24.0 megapixels and has 3.0 GB (`max_memory`): used the parametric "
        "model (for the network pass `scratch` DIR, a folder on a disk with 8.1 GB free)"
    )
    with pytest.raises(ConfigError, match=r"pass `scratch` DIR, a folder .* 8\.1 GB free, or `model` parametric$"):
        convert.affordable(plain, replace(settings, model="paramisp"), (4000, 6000))
    given = convert.affordable(plain, replace(settings, scratch=tmp_path), (4000, 6000))
    assert (given.memory_plan, given.notices) == ("disk", plain.notices)
    with pytest.raises(ConfigError, match=r"pass `model` parametric$"):
        convert.affordable(plain, replace(settings, model="paramisp", scratch=tmp_path, max_memory=10**9), (4000, 6000))


def test_a_disk_without_room_is_said(generic, make_jpeg, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    photo = formats.read(make_jpeg(tmp_path / "photo.jpg"))
    plan = replace(parameters.complete(photo), memory_plan="disk")
    with pytest.raises(FileAccessError, match=r"no room for a file of .* GB: No space left on device; pass `scratch`"):
        convert.run(photo, plan, parameters.Settings(scratch=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"photo.jpg", "store"}


@pytest.mark.slow
def test_plans_give_the_same_file(generic, make_jpeg, tmp_path, monkeypatch):
    names = plans.names(torch.device("cpu"))
    for name in names:
        monkeypatch.setitem(plans.PLANS, name, replace(plans.PLANS[name], band=plans.PLANS[name].band and 64))
    photo = formats.read(
        make_jpeg(tmp_path / "photo.jpg", np.random.default_rng(0).integers(0, 255, (130, 170, 3), np.uint8))
    )
    plan, settings = parameters.complete(photo), parameters.Settings(scratch=tmp_path)
    made = {name: convert.run(photo, replace(plan, memory_plan=name), settings).mosaic.astype(int) for name in names}
    for name in names:
        assert np.abs(made[name] - made["whole"]).max() <= 1  # of 16383: where rounding falls the other way


def test_memory_that_runs_out_steps_down(generic, make_jpeg, tmp_path, monkeypatch):
    asked = []

    def stream(self, source, sink, size, params, *, dtype, plan, store=None, progress=None):
        asked.append(plan)
        if plan == "whole":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        real(self, source, sink, size, params, dtype=dtype, plan=plan)

    real = ParamISP.stream
    monkeypatch.setattr(ParamISP, "stream", stream)
    made = paramisp.unprocess(make_jpeg(tmp_path / "photo.jpg"), parameters.Settings(camera="Nikon D90"))
    assert asked == ["whole", "bands"]
    assert any("memory ran out" in note and "bands" in note for note in made.notes)
