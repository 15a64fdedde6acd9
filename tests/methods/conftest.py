import pytest
import torch


@pytest.fixture
def float64():
    """New models and toy data are float64."""
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)
