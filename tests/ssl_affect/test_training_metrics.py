import math

from ssl_affect.training.metrics import MetricsFile, read_metrics


def test_metrics_of_one_step_share_a_row(tmp_path):
    log = MetricsFile(tmp_path)
    log.start_after(0)
    log.log_metrics({"loss": 1.5}, step=1)
    log.log_metrics({"lr": 0.1}, step=1)
    log.log_metrics({"loss": float("nan")}, step=2)
    log.log_metrics({"val": 0.25}, step=2)
    log.finalize("success")
    first, second = read_metrics(tmp_path / "metrics.csv")
    assert first == {"step": 1, "loss": 1.5, "lr": 0.1}
    assert second["val"] == 0.25
    assert math.isnan(second["loss"])


def test_values_survive_to_the_last_bit(tmp_path):
    log = MetricsFile(tmp_path)
    log.start_after(0)
    value = 0.1 + 0.2
    log.log_metrics({"a": value}, step=1)
    log.save()
    assert read_metrics(tmp_path / "metrics.csv")[0]["a"] == value


def test_rows_after_the_checkpoint_are_done_again(tmp_path):
    log = MetricsFile(tmp_path)
    log.start_after(0)
    for step in range(1, 6):
        log.log_metrics({"loss": step}, step=step)
    log.save()
    again = MetricsFile(tmp_path)
    again.start_after(3)
    again.log_metrics({"loss": 40.0, "new": 1.0}, step=4)
    again.save()
    assert [(row["step"], row["loss"]) for row in read_metrics(again.path)] == [(1, 1), (2, 2), (3, 3), (4, 40)]


def test_half_a_last_line_is_no_row(tmp_path):
    path = tmp_path / "metrics.csv"
    path.write_text("loss,step\n1.0,1\n2.")
    assert read_metrics(path) == [{"loss": 1.0, "step": 1.0}]
    assert read_metrics(tmp_path / "nothing.csv") == []
