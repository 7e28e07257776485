import pytest
import torch

import ssl_affect
from ssl_affect.errors import ConfigError
from ssl_affect.models import ModelSpec, resolve_arch


def test_names_are_listed_by_wildcard():
    assert {"mae_dfer_base", "mae_dfer_small", "mae_dfer_tiny"} <= set(ssl_affect.list_models())
    assert ssl_affect.list_models("mae_dfer_t*") == ["mae_dfer_tiny"]
    assert ssl_affect.list_models("nothing*") == []


def test_unknown_names_come_with_the_closest():
    with pytest.raises(ConfigError, match=r"'mae_dfer_bas' is not a model; did you mean 'mae_dfer_base'\?"):
        ssl_affect.create_model("mae_dfer_bas")


@pytest.mark.parametrize(
    ("maker", "arch", "message"),
    [
        (
            ssl_affect.create_model,
            {"dept": 3},
            r"'dept' is not an argument; did you mean 'depth'\?; choose from img_size,",
        ),
        (ssl_affect.create_model, {"decoder_depth": 3}, "it belongs to create_pretraining_model"),
        (ssl_affect.create_pretraining_model, {"pool": "all"}, "it belongs to create_model"),
        (
            ssl_affect.create_pretraining_model,
            {"depth": 0},
            "depth=0 is not possible; it must be a whole number from 1",
        ),
        (ssl_affect.create_pretraining_model, {"depth": True}, "depth=True is not possible"),
        (ssl_affect.create_pretraining_model, {"mlp_ratio": "4"}, "mlp_ratio='4' is not possible"),
        (ssl_affect.create_pretraining_model, {"normalize_target": 1}, "must be true or false"),
        (ssl_affect.create_pretraining_model, {"decoder_position_order": "raster"}, "choose 'correct' or 'reference'"),
        (ssl_affect.create_model, {"pool": "org"}, "pool='org' is unknown; choose 'region', 'local', 'all'"),
        (ssl_affect.create_model, {"num_heads": 7}, "cannot be cut into 7 heads"),
        (ssl_affect.create_model, {"region_size": (2, 4, 10)}, r"axis h has \d+ tokens; choose its window from"),
        (ssl_affect.create_model, {"region_size": [2, 5]}, "must be three numbers"),
        (ssl_affect.create_model, {"img_size": 150}, "size=150 is not a multiple of patch_size=16"),
        (ssl_affect.create_model, {"num_frames": 7}, "num_frames=7 is not a multiple of tubelet_size=2"),
        (ssl_affect.create_model, {"num_classes": -1}, "num_classes must be a whole number from 0"),
        (ssl_affect.create_model, {"pool": "", "num_classes": 3}, "tokens have no head"),
    ],
)
def test_impossible_arguments_are_named(maker, arch, message):
    with torch.device("meta"), pytest.raises(ConfigError, match=message):
        maker("mae_dfer_base", **arch)


@pytest.mark.parametrize("name", ssl_affect.list_models())
def test_a_model_says_how_to_build_it_again(name):
    with torch.device("meta"):
        model = ssl_affect.create_pretraining_model(name, mlp_ratio=2.0)
        again = ssl_affect.create_pretraining_model(model.spec.name, **model.spec.arch)
        backbone = ssl_affect.create_model(name, num_classes=5, mlp_ratio=2.0)
    assert model.spec == again.spec == ModelSpec(name=name, task="pretrain", arch=model.spec.arch)
    assert model.spec.arch["mlp_ratio"] == 2.0
    assert {k: t.shape for k, t in model.state_dict().items()} == {k: t.shape for k, t in again.state_dict().items()}
    assert (backbone.spec.task, backbone.spec.num_classes, backbone.spec.arch["mlp_ratio"]) == ("classify", 5, 2.0)


def test_region_size_follows_the_clip_unless_it_is_set():
    with torch.device("meta"):
        assert ssl_affect.create_model("mae_dfer_base").region_size == (2, 5, 10)
        assert ssl_affect.create_model("mae_dfer_base", img_size=224).region_size == (2, 7, 14)
        assert ssl_affect.create_model("mae_dfer_base", img_size=80, num_frames=6).region_size == (1, 5, 5)
        assert ssl_affect.create_model("mae_dfer_tiny", img_size=64, region_size=[2, 2, 2]).region_size == (2, 2, 2)
    assert resolve_arch("mae_dfer_base", "classify", {"region_size": (2, 5, 5)})["region_size"] == [2, 5, 5]
