import pytest
from pretrain_runs import train

from pretrain.cli import main
from pretrain.report import write_report
from ssl_affect.errors import ConfigError
from ssl_affect.training.report import final_losses, verdict


def test_report_holds_what_the_run_was(tmp_path, shards, held_out, capsys):
    run = tmp_path / "run"
    train(run, shards, "--data.val_shards", str(held_out))
    text = (run / "report.html").read_text()
    for part in (
        "The run finished, at step 2 of 2",
        "On training clips",
        "On held-out clips",
        "always predicting the mean",
        "Reconstructions",
        "skipped steps (loss or gradient not finite)",
        "crop recipe",
        "decoder_embed_dim",
        "pytorch-lightning",
        "base_lr: 0.0015",
    ):
        assert part in text
    assert text.count("data:image/png;base64,") == 3  # two figures, one picture
    assert 'src="http' not in text

    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0  # from the files alone
    assert capsys.readouterr().out.strip() == str(run / "report.html")
    assert (run / "report.html").read_text() == text


def test_report_needs_a_run(tmp_path):
    with pytest.raises(ConfigError, match=r"no run\.json"):
        write_report(tmp_path)


def test_final_losses_are_means_over_the_last_tenth():
    rows = [{"step": s, "train/loss": 1.0 - s / 100, "train/constant": 1.0} for s in range(1, 41)]
    rows[37]["train/loss"] = float("nan")
    rows[20] |= {"val/loss": 0.9, "val/constant": 0.8}
    losses = final_losses(rows)
    assert losses["loss"] == pytest.approx((0.63 + 0.61 + 0.60) / 3)
    assert losses["first_loss"] == pytest.approx(0.99)
    assert (losses["held_out_loss"], losses["held_out_constant"]) == (0.9, 0.8)
    assert "61% of the 1.0000" in verdict(losses)
    assert "112% of the 0.8000" in verdict(losses)


def test_a_run_that_logged_nothing_says_so():
    assert final_losses([]) == {}
    assert verdict({}) == "No loss was logged."
