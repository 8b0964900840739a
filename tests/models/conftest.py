"""What all tests of networks share."""

import pytest
import torch


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """Small images: threads that wait for each other cost more than they give, most of all on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)
