"""Real networks in torch: the numbers of onnxruntime, no islands, gradients to every input that can have one."""

from pathlib import Path

import numpy as np
import pytest
import torch

from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of
from ptqc.execute.torch_executor.convert import to_array
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.graph.load import load_model
from ptqc.passes.probe import make_probe

REPOSITORY = Path(__file__).resolve().parents[3]
OWN = sorted(path.name for path in (REPOSITORY / "models").glob("*.onnx"))
OTHERS = (
    "models/efficientnet_lite0",
    "models/mobilenet_v1_025",
    "models/mobilenet_v1_025-folded",
    "models/pylm",
    "models/resnet20",
    "models/resnet20-folded",
    "models/resnet56",
    "models/resnet8",
    "models/squeezenet1_1",
    "zoo/dtln_1",
    "zoo/espcn_x3",
    "zoo/fastestdet",
    "zoo/gtcrn_simple",
    "zoo/magika_v3_3",
    "zoo/mnist_cntk",
    "zoo/retinaface_mobilenet025",
    "zoo/silero_vad_16k",
    "zoo/toycar_autoencoder",
    "zoo/ultraface_rfb_320",
    "zoo/vww_mobilenet_v1_025",
    "zoo/yunet_n_320",
)


def test_every_network_of_the_data_folder_is_looked_at(data_root: Path) -> None:
    found = {str(path.relative_to(data_root).with_suffix("")) for path in data_root.glob("*/*.onnx")}
    assert found == set(OTHERS)


@pytest.mark.parametrize("name", OWN)
def test_own_networks_compute_what_onnxruntime_computes(name: str) -> None:
    check(REPOSITORY / "models" / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", OTHERS)
def test_other_networks_compute_what_onnxruntime_computes(data_root: Path, name: str) -> None:
    check(data_root / f"{name}.onnx")


def check(path: Path) -> None:
    """Outputs are onnxruntime's, and gradients reach the inputs that are floats."""
    model = load_model(path)
    feeds: dict[str, Array] = dict(make_probe(model).feeds)
    assert feeds, "the model does not run on random inputs"
    executor = TorchExecutor(model)
    leaves = {name: torch.from_numpy(array.copy()) for name, array in feeds.items()}
    floats = [leaf.requires_grad_() for leaf in leaves.values() if leaf.is_floating_point()]
    found = executor(leaves)
    assert executor.islands == {}
    expected = run_session(session_of(model), executor.outputs, feeds)
    for name, exact in zip(executor.outputs, expected, strict=True):
        ours = to_array(found[name])
        assert (ours.dtype, ours.shape) == (exact.dtype, exact.shape)
        # onnxruntime's own sigmoid is wrong by up to 1e-7, whatever the value.
        allowed = 1e-4 * np.linalg.norm(exact) + 1e-7 * np.sqrt(exact.size)
        assert np.linalg.norm(ours.astype(np.float64) - exact) <= allowed, name
    if floats:
        outputs = [value.square().mean() for value in found.values() if value.requires_grad]
        gradients = torch.autograd.grad(sum(outputs, torch.zeros(())), floats, allow_unused=True)
        assert all(gradient is not None and bool(torch.isfinite(gradient).all()) for gradient in gradients)
        assert any(bool(gradient.any()) for gradient in gradients)
