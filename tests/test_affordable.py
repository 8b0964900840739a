"""A network that nobody asked for and that memory does not hold gives way to the parametric model, and that is said."""

from __future__ import annotations

import pytest

from paramisp_cli import pipeline, weights
from paramisp_cli.errors import ConfigError
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
    made = pipeline.unprocess(photo, settings)
    assert made.model == "parametric"
    assert made.notes[-1].startswith("paramisp needs about")
    assert made.notes[-1].endswith("(--max-memory): used the parametric model")
    assert not any("generic" in note for note in made.notes)
    assert pipeline.unprocess(photo, pipeline.Settings(camera="Canon EOS 60D")).model == "paramisp"


@pytest.mark.parametrize("asked", ["model", "weights"])
def test_what_was_asked_for_is_an_error(generic, make_jpeg, tmp_path, asked):
    photo = make_jpeg(tmp_path / "photo.jpg")
    wish = {"model": "paramisp"} if asked == "model" else {"weights": generic}
    with pytest.raises(ConfigError, match="needs about"):
        pipeline.unprocess(photo, pipeline.Settings(camera="Canon EOS 60D", max_memory=1_000_000, **wish))
