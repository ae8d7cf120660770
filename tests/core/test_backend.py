"""The choice of the backend where Triton is missing: what is said, how often, and what remains possible."""

from types import SimpleNamespace

import pytest
import torch

from tritonlstm import PeepholeLSTM
from tritonlstm.core import backend


def weight(dtype: torch.dtype = torch.float32, device: str = "cuda") -> SimpleNamespace:
    """What `resolve` reads of a weight, on a device that need not exist."""
    return SimpleNamespace(is_cuda=device == "cuda", dtype=dtype, device=torch.device(device))


@pytest.fixture
def without_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend, "TRITON_IS_INSTALLED", False)
    monkeypatch.setattr(backend.sys, "platform", "linux")
    backend._warn_once.cache_clear()
    yield
    backend._warn_once.cache_clear()


def test_auto_is_triton_on_a_gpu_and_aten_elsewhere():
    assert backend.resolve("auto", weight()) == "triton"
    assert backend.resolve("auto", weight(torch.float64)) == "aten"
    assert backend.resolve("auto", weight(device="cpu")) == "aten"


@pytest.mark.usefixtures("without_triton")
class TestWithoutTriton:
    def test_auto_falls_back_with_one_warning_that_says_how_to_get_it(self, recwarn: pytest.WarningsRecorder):
        with pytest.warns(UserWarning, match=r"pip install 'tritonlstm\[triton\]'"):
            assert backend.resolve("auto", weight()) == "aten"
        recwarn.clear()
        assert backend.resolve("auto", weight()) == "aten"
        assert len(recwarn) == 0

    @pytest.mark.parametrize("weight", [weight(device="cpu"), weight(torch.float64)])
    def test_auto_is_silent_where_triton_would_not_run(self, weight: SimpleNamespace):
        assert backend.resolve("auto", weight) == "aten"

    def test_auto_is_silent_where_there_is_no_triton(self, monkeypatch: pytest.MonkeyPatch):
        monkeypatch.setattr(backend.sys, "platform", "win32")
        assert backend.resolve("auto", weight()) == "aten"

    def test_an_explicit_choice_is_silent(self):
        assert backend.resolve("aten", weight()) == "aten"

    def test_the_explicit_backend_is_refused_with_the_remedy(self):
        layer, input = PeepholeLSTM(2, 3, backend="triton"), torch.zeros(2, 1, 2)
        with pytest.raises(ValueError, match=r"not installed.*pip install 'tritonlstm\[triton\]'.*\"auto\" works here"):
            layer(input)

    def test_the_warning_is_compiled(self, fresh_compiler):
        def call(x):
            backend._warn_without_triton()
            return x + 1

        with pytest.warns(UserWarning, match="Triton"):
            torch.compile(call, fullgraph=True, backend="eager")(torch.zeros(1))
