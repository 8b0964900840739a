"""The registry: every name leads to a class that agrees with its entry, and asking for names costs no torch."""

import subprocess
import sys
from typing import get_args, get_type_hints

import pytest

from paramisp_cli import models, parameters, settings, weights
from paramisp_cli.cli import convert, options
from paramisp_cli.directions import Direction, Kind
from paramisp_cli.errors import ConfigError
from paramisp_cli.models.base import Geometry, IspModel, Params


@pytest.mark.parametrize("entry", models.REGISTRY, ids=lambda entry: entry.name)
def test_an_entry_agrees_with_its_class(entry):
    kind = models.architecture(entry.name)
    assert issubclass(kind, IspModel)
    assert (kind.name, kind.directions, kind.needs_weights) == (entry.name, entry.directions, entry.needs_weights)
    assert kind.stages == entry.stages
    assert kind.both_ways == entry.both_ways
    assert isinstance(kind.geometry, Geometry)


def test_names_cost_no_torch():
    code = (
        "import sys; from paramisp_cli import models, parameters\n"
        "models.names(), models.entry('paramisp'), parameters.MODELS\n"
        "assert not {'torch', 'paramisp_cli.models.base'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def _literals(kind):
    """The strings of a Literal, however deep it lies in an annotation."""
    found = []
    for each in get_args(kind):
        found += [each] if isinstance(each, str) else _literals(each)
    return found


def test_lists_of_architectures_are_the_registrys():
    assert sorted(_literals(options.Model)) == sorted(models.names()) == sorted(parameters.MODELS)
    assert parameters.WEIGHTLESS == models.names(needs_weights=False) == ("parametric",)
    assert models.names(needs_weights=True) == weights._PREFERRED
    assert models.names(stage="restored") == ("parametric", "cameranet")
    stop_at = get_type_hints(convert.render, include_extras=True)["stop_at"]
    assert tuple(_literals(stop_at)) == models.stages() == settings.STAGES
    for stage in models.stages():  # a model for those who name none
        assert models.names(needs_weights=False, stage=stage)


def test_unknown_names():
    with pytest.raises(ConfigError, match=f"no model 'gan'; the models are {', '.join(models.names())}$"):
        models.entry("gan")
    with pytest.raises(AttributeError, match="Gan"):
        _ = models.Gan
    assert models.Params is Params


@pytest.mark.parametrize("direction", list(Direction))
def test_directions_name_what_goes_in_and_out(direction):
    kinds = {
        Direction.UNPROCESS: (Kind.SRGB, Kind.RAW),
        Direction.RENDER: (Kind.RAW, Kind.SRGB),
        Direction.TRANSFER: (Kind.RAW, Kind.RAW),
        Direction.RESTORE: (Kind.RAW, Kind.RAW),
    }
    assert (direction.input, direction.output) == kinds[direction]
    assert (Kind.SRGB.channels, Kind.RAW.channels) == (3, 1)
