"""Features and attentive probes on a GPU are those of the CPU."""

import pytest
import torch
from shard_fixture import make_shards

from ssl_affect.data.shardset import ShardSet
from ssl_affect.models import create_model
from ssl_affect.probing.attentive import fit_attentive
from ssl_affect.probing.features import extract_features
from ssl_affect.probing.targets import ProbeTargets, probe_score
from ssl_affect.types import ClipSpec

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


@pytest.mark.parametrize(("precision", "tolerance"), [("32-true", 2e-3), ("bf16-mixed", 5e-2)])
def test_features_agree(tmp_path, precision, tolerance):
    shards, clip = ShardSet(make_shards(tmp_path / "shards")), ClipSpec(num_frames=4, stride=2, size=32)
    torch.manual_seed(0)
    model = create_model("mae_dfer_tiny", img_size=32, num_frames=4, patch_size=8, embed_dim=32, depth=2, num_heads=2)
    expected = extract_features(model, shards, range(12), clip).values
    found = extract_features(model, shards, range(12), clip, device="cuda", precision=precision).values
    assert found.device.type == "cpu"
    torch.testing.assert_close(found, expected, atol=tolerance, rtol=tolerance)


def test_an_attentive_probe_learns_on_a_gpu():
    tokens = torch.randn(128, 6, 16, generator=torch.Generator().manual_seed(0))
    targets = ProbeTargets.of_classes((tokens[:, :, 0].mean(dim=1) > 0).long(), 2)
    probe = fit_attentive(tokens, targets, lr=1e-2, device="cuda")
    assert probe_score(targets, probe(tokens)) > 0.9
