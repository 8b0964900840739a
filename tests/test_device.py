"""A GPU's way without a GPU: tensors that have a device and no numbers, and that refuse to meet those of another.

The test tells that everything lies where it must, and not that the numbers are right: that needs a GPU.
"""

import subprocess
import sys

import numpy as np
import pytest
import torch

from paramisp_cli import devices

pytestmark = pytest.mark.slow

PROGRAM = """
import numpy as np
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils import backend_registration

backend_registration._setup_privateuseone_for_python_backend("gpu")
torch.gpu.get_amp_supported_dtype = lambda: [torch.float16, torch.bfloat16]

from paramisp_cli import devices
from paramisp_cli.models.base import Params
from paramisp_cli.models.paramisp import ParamISP
from paramisp_cli.models.parametric import Parametric
from paramisp_cli.scratch import HostMemory

gpu = torch.device("gpu")
for kind, plan, dtype in (
    (ParamISP, "whole", torch.float32), (ParamISP, "whole", torch.float16), (ParamISP, "host", torch.bfloat16),
    (ParamISP, "bands", torch.float32), (Parametric, "whole", torch.float32),
):
    for direction in ("unprocess", "render"):
        with FakeTensorMode(allow_non_fake_inputs=True), torch.no_grad():
            torch.set_default_device(gpu)
            model = kind(direction).eval()
            torch.set_default_device("cpu")
            one = torch.ones(1)
            gains = torch.tensor([[2.1, 1.0, 1.5]])
            params = Params(gains, torch.eye(3)[None], 160 * one, one / 125, 2.8 * one, 80 * one).to(gpu)
            channels, given = (3, 1) if direction == "unprocess" else (1, 3), []
            assert plan in model.plans(gpu)
            stores = []

            def store(size):
                stores.append(HostMemory(size))
                return stores[-1]

            def source(first, end):
                rows = np.zeros((channels[0], end - first, 300), np.uint16)
                return devices.codes_on(gpu, rows)[None]

            def sink(top, rows):
                assert rows.device.type == "gpu", rows.device
                given.append((top, tuple(rows.shape)))

            moved = []
            real = HostMemory.transfer

            def transfer(self, rows, place, *, write):
                moved.append((rows.device.type, self.bytes.device.type, write))
                real(self, rows, place, write=write)

            HostMemory.transfer = transfer
            model.stream(source, sink, (900, 300), params, dtype=dtype, plan=plan, store=store)
            HostMemory.transfer = real
            assert {m[:2] for m in moved} == ({("gpu", "cpu")} if plan == "host" else set()), moved
            assert {m[2] for m in moved} == ({True, False} if plan == "host" else set())
            assert sum(shape[2] for _, shape in given) == 900, given
            assert {shape[1] for _, shape in given} == {channels[1]}
        print(kind.__name__, plan, direction, dtype)
with FakeTensorMode(), torch.no_grad():
    try:
        torch.ones(2, device=gpu) + torch.ones(2)
    except RuntimeError:
        print("devices do not mix")
"""


@pytest.mark.skipif(
    not hasattr(torch.utils.backend_registration, "_setup_privateuseone_for_python_backend"),
    reason="this torch has no devices that are only names",
)
def test_everything_lies_on_the_device():
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM], capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 11
    assert lines[-1] == "devices do not mix"


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_codes_there_and_back(dtype):
    codes = np.arange(0, np.iinfo(dtype).max + 1, 1, dtype)
    there = devices.codes_on(torch.device("cpu"), codes)
    assert there.dtype == torch.float32
    assert np.array_equal(devices.codes_from(there, np.dtype(dtype)), codes)
