"""A network that nobody asked for and that memory does not hold gives way to the parametric model, and that is said."""

from __future__ import annotations

import errno
import os
from dataclasses import replace

import numpy as np
import pytest

import paramisp_cli as paramisp
from paramisp_cli import formats, pipeline, weights
from paramisp_cli.errors import ConfigError, FileAccessError
from paramisp_cli.models import engine
from paramisp_cli.models.paramisp import ParamISP
from paramisp_cli.types import Direction


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
    settings = pipeline.Settings(camera="Canon EOS 60D", max_memory=1_000_000)
    made = paramisp.unprocess(photo, settings)
    assert made.model == "parametric"
    assert made.notes[-1].startswith("paramisp needs about")
    assert made.notes[-1].endswith("(--max-memory): used the parametric model")
    assert not any("generic" in note for note in made.notes)
    assert paramisp.unprocess(photo, pipeline.Settings(camera="Canon EOS 60D")).model == "paramisp"


@pytest.mark.parametrize("asked", ["model", "weights"])
def test_what_was_asked_for_is_an_error(generic, make_jpeg, tmp_path, asked):
    photo = make_jpeg(tmp_path / "photo.jpg")
    wish = {"model": "paramisp"} if asked == "model" else {"weights": generic}
    with pytest.raises(ConfigError, match="needs about"):
        paramisp.unprocess(photo, pipeline.Settings(camera="Canon EOS 60D", max_memory=1_000_000, **wish))


@pytest.mark.parametrize(
    ("limit", "name"),
    [("16GB", "whole"), ("11GB", "bands"), ("7GB", "half"), ("4GB", "quarter"), ("3GB", "small"), ("2500MB", "tiny")],
)
def test_less_memory_takes_another_plan(generic, make_jpeg, tmp_path, limit, name):
    plain = pipeline.plan_unprocess(formats.read(make_jpeg(tmp_path / "photo.jpg")))
    settings = pipeline.Settings(max_memory=int(limit[:-2]) * (10**9 if limit.endswith("GB") else 10**6))
    plan = pipeline.affordable(plain, settings, (4000, 6000))
    assert plan.describe()["memory_plan"] == name
    assert "memory_plan" not in plain.describe()


def test_a_folder_for_a_file_takes_the_plan_that_uses_it(generic, make_jpeg, tmp_path):
    plain = pipeline.plan_unprocess(formats.read(make_jpeg(tmp_path / "photo.jpg")))
    settings = pipeline.Settings(max_memory=3 * 10**9)
    slow = pipeline.affordable(plain, settings, (4000, 6000))
    assert slow.notices[-1] == (
        "memory allows the plan 'small', which takes long; --scratch DIR would use a disk as well"
    )
    fast = pipeline.affordable(plain, replace(settings, scratch=tmp_path), (4000, 6000))
    assert (fast.memory_plan, fast.notices) == ("disk", plain.notices)
    ample = pipeline.affordable(plain, replace(settings, scratch=tmp_path, max_memory=16 * 10**9), (4000, 6000))
    assert (ample.memory_plan, ample.notices) == ("whole", plain.notices)


def test_a_disk_without_room_is_said(generic, make_jpeg, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    photo = formats.read(make_jpeg(tmp_path / "photo.jpg"))
    plan = replace(pipeline.plan_unprocess(photo), memory_plan="disk")
    with pytest.raises(FileAccessError, match=r"no room for a file of .* GB: No space left on device; pass --scratch"):
        pipeline.run_unprocess(photo, plan, pipeline.Settings(scratch=tmp_path))
    assert {path.name for path in tmp_path.iterdir()} == {"photo.jpg", "store"}


def test_plans_give_the_same_file(generic, make_jpeg, tmp_path, monkeypatch):
    plans = {name: plan._replace(side=plan.side and 64) for name, plan in engine.PLANS.items()}
    for name, kind in plans.items():
        monkeypatch.setitem(engine.PLANS, name, kind)
    photo = formats.read(
        make_jpeg(tmp_path / "photo.jpg", np.random.default_rng(0).integers(0, 255, (130, 170, 3), np.uint8))
    )
    plan = pipeline.plan_unprocess(photo)
    made = {
        name: pipeline.run_unprocess(photo, replace(plan, memory_plan=name), pipeline.Settings()).mosaic.astype(int)
        for name in plans
    }
    for name in plans:
        assert np.abs(made[name] - made["whole"]).max() <= 1  # of 16383: where rounding falls the other way


def test_memory_that_runs_out_steps_down(generic, make_jpeg, tmp_path, monkeypatch):
    asked = []

    def stream(self, source, sink, size, params, *, dtype, plan, scratch=None):
        asked.append(plan)
        if plan == "whole":
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes")
        real(self, source, sink, size, params, dtype=dtype, plan=plan)

    real = ParamISP.stream
    monkeypatch.setattr(ParamISP, "stream", stream)
    made = paramisp.unprocess(make_jpeg(tmp_path / "photo.jpg"), pipeline.Settings(camera="Canon EOS 60D"))
    assert asked == ["whole", "bands"]
    assert any("memory ran out" in note and "bands" in note for note in made.notes)
