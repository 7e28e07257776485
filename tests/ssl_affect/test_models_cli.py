import pytest

import ssl_affect
from ssl_affect.errors import ConfigError
from ssl_affect.models_cli import main


def test_list_shows_every_model_with_its_origin(capsys):
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for name in ssl_affect.list_models():
        assert name in text
    assert "84.87 M" in text
    assert main(["list", "*_tiny"]) == 0
    text = capsys.readouterr().out
    assert "mae_dfer_base" not in text
    assert "ours: no published weights" in text
    with pytest.raises(ConfigError, match=r"no model matches 'x\*'"):
        main(["list", "x*"])


def test_info_shows_arguments_geometry_and_parts(capsys):
    assert main(["info", "mae_dfer_base", "decoder_depth=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert any("800 tokens (8 x 10 x 10) in 8 regions of 2 x 5 x 10" in line for line in lines)
    assert any(line.split() == ["decoder_depth", "2"] for line in lines)
    assert any(line.split() == ["all", f"{92_760_192 - 2 * 1_774_080:,}"] for line in lines)


def test_flops_shows_backbone_and_pretraining(capsys):
    assert main(["flops", "mae_dfer_tiny", "img_size=64", "--num-classes", "7", "--mask-ratio", "0.75"]) == 0
    text = capsys.readouterr().out
    assert "75% masked" in text
    backbone = next(line for line in text.splitlines() if line.startswith("backbone"))
    assert backbone.split()[1] == "128"


def test_models_that_also_hear(capsys):
    assert main(["list", "hicmae_tiny"]) == 0
    assert "16 x 160 x 160 + 256 x 128" in capsys.readouterr().out
    assert main(["info", "hicmae_tiny"]) == 0
    assert "video 800 tokens (8 x 10 x 10), audio 128 tokens (1 x 16 x 8)" in capsys.readouterr().out
    assert main(["flops", "hicmae_tiny", "modality=audio", "--mask-ratio", "0.9", "0.5"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("backbone")] == ["128"]
    assert any(line.startswith("pretraining, 90%, 50% masked") for line in lines)


@pytest.mark.parametrize("command", ["info", "flops"])
def test_arguments_are_checked(command):
    with pytest.raises(ConfigError, match="did you mean 'img_size'"):
        main([command, "mae_dfer_tiny", "img_siz=64"])
    with pytest.raises(ConfigError, match="KEY=VALUE"):
        main([command, "mae_dfer_tiny", "img_size"])
    with pytest.raises(ConfigError, match="did you mean"):
        main([command, "mae_dfer_tin"])
