"""``report.html`` of a finetuning run: the page of every run, with the figures of its test."""

import json
from pathlib import Path

from finetune.testing import FACTS_NAME, FOLDER
from ssl_affect.html import Page
from ssl_affect.training.report import write_run_report


def write_report(folder: Path) -> Path:
    """Writes the report of a finetuning run, whatever its state; see :func:`write_run_report`.

    Raises:
        ConfigError: the folder holds no run.
    """
    return write_run_report(folder, "Finetuning run", (show_tests,))


def show_tests(page: Page, folder: Path) -> None:
    """The whole figures of every task with their intervals; the pages beside have the rest."""
    facts = folder / FOLDER / FACTS_NAME
    if not facts.is_file():
        return
    for task in json.loads(facts.read_bytes())["tasks"]:
        report = folder / FOLDER / task / "report.json"
        if not report.is_file():
            continue
        values = json.loads(report.read_bytes())
        page.heading(f"Test: {task}")
        rows = []
        for rule, run in values["runs"].items():
            for name, figure in run["pooled"].items():
                if "/" in name:
                    continue
                interval = figure["interval"]
                text = f"{figure['value']:.4f}" if figure["value"] is not None else "undefined"
                if interval:
                    text += f" [{interval['low']:.4f}, {interval['high']:.4f}]"
                rows.append([rule, name + (" (primary)" if name == values["primary"] else ""), text])
        page.table(["checkpoint", "figure", "value [95 % interval]"], rows)
        page.text(f"All figures, classes and cases: {FOLDER}/{task}/report.html")
