"""Files of the test camera, and a data set of them, for all tests of the training."""

from __future__ import annotations

from pathlib import Path

import pytest
from testcamera import shoot, unsign

from paramisp_cli.training.pairing import pairs


@pytest.fixture(scope="session")
def camera_files(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("shots")
    shoot(folder, "one", seed=1)
    shoot(folder, "two", seed=2)
    return folder


@pytest.fixture(scope="session")
def dataset(camera_files: Path, tmp_path_factory) -> Path:
    where = tmp_path_factory.mktemp("data")
    for index in ("one", "two"):
        unsign(camera_files / f"{index}.dng")
    found = list(pairs.make([camera_files], where))
    assert [p.status for p in found] == ["pair", "pair"], [p.reason for p in found]
    return where
