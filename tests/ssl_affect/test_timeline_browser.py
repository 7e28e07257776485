"""The page of `ssl-affect report` in a real browser: it loads in silence, asks for nothing, and does what it shows."""

import csv
import io

import numpy as np
import pytest
from browser import PROGRAM, Browser
from media import with_faces, write_video
from timeline_fixture import release

from ssl_affect.faces import create_detector
from ssl_affect.recipe import Recipe
from ssl_affect.timeline import ReportSettings, make_report

pytestmark = [
    pytest.mark.skipif(PROGRAM is None, reason="no Chromium on this machine; install chromium to run this test"),
]
TIME = "document.querySelector('video').currentTime"
HEAD = "parseFloat(document.querySelector('#person-0 .head').style.left)"
VALUE = "Number(document.querySelector('#person-0 .inner').getAttribute('aria-valuenow'))"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A report on two seconds of a cropped face with sound."""
    folder = tmp_path_factory.mktemp("page")
    frames = [with_faces([(20 + k, 10, 90)], height=120, width=160) for k in range(50)]
    sound = 0.1 * np.sin(np.arange(2 * 48000) / 20).astype(np.float32)
    video = write_video(folder / "v & <i>.mp4", frames, sound=sound)
    make_report(video, model=release(folder / "w"), out=folder / "r", crop="model")
    return folder / "r" / "report.html"


def saved(browser):
    """The text that the button saves."""
    browser.run(
        """
        window.taken = null;
        URL.createObjectURL = (blob) => { blob.text().then((text) => { window.taken = text; }); return "blob:x"; };
        HTMLAnchorElement.prototype.click = function () { window.name_of_file = this.download; };
        document.getElementById("csv").click();
        """
    )
    browser.wait_for("window.taken !== null")
    return browser.run("window.taken")


def place(browser, selector):
    return browser.run(
        f"(() => {{ const e = document.querySelector('{selector}'); e.scrollIntoView({{block: 'center'}});"
        " const r = e.getBoundingClientRect(); return [r.left, r.top, r.width, r.height]; })()"
    )


def test_the_page_does_what_it_shows(page, tmp_path):
    """Loads in silence, a click and the keys go there, the playhead moves with the video, the button saves the table."""
    with Browser(tmp_path / "profile") as browser:
        browser.open(page.as_uri())
        browser.wait_for("document.querySelector('video').readyState >= 2")
        assert browser.run("document.querySelector('video').videoWidth") == 160
        duration = browser.run("data.duration")
        left, top, width, height = place(browser, "#person-0 .over")
        browser.click(left + 0.25 * width, top + height / 2)
        browser.wait_for(f"Math.abs({TIME} - {0.25 * duration}) < 0.05")
        assert browser.run(HEAD) == pytest.approx(25, abs=2)
        assert "0:00." in browser.run("document.querySelector('#person-0 .now').textContent")
        browser.run("document.querySelector('#person-0 .inner').focus()")
        starts = browser.run("data.people[0].cells.map((cell) => cell[0])")
        after = min(start for start in starts if start > 0.25 * duration + 0.03)
        browser.press("ArrowRight")
        browser.wait_for(f"Math.abs({TIME} - {after}) < 0.02")
        browser.press("End")
        assert browser.run(VALUE) == pytest.approx(duration, abs=0.02)
        browser.press("Home")
        browser.wait_for(f"{TIME} === 0")
        browser.run("document.getElementById('boxes').click()")
        assert browser.run("document.querySelectorAll('.box').length") == 0, "a cropped face has no box"
        browser.run("document.querySelector('video').play()")
        browser.wait_for(f"{HEAD} > 10")
        assert browser.run(f"Math.abs({VALUE} - {TIME})") < 0.3
        text = saved(browser)
        assert browser.run("window.name_of_file") == "predictions.csv"
        stored = page.with_name("predictions.csv").read_text(encoding="utf-8")
        assert list(csv.reader(io.StringIO(text))) == list(csv.reader(io.StringIO(stored)))
        assert text == stored
        browser.resize(390, 800)
        assert browser.run("document.documentElement.scrollWidth") <= 390, "nothing sticks out of a narrow window"
        assert browser.requests == [page.as_uri()]
        assert browser.complaints == []


@pytest.mark.slow
def test_two_people_one_of_whom_leaves_and_a_video_beside_the_page(tmp_path):
    detector = create_detector("mtcnn")
    recipe = Recipe(detector=detector.name, detector_sha256=detector.weights_sha256, min_score=0.9, size=32, margin=0.2)
    frames = []
    for index in range(100):
        places = [(20 + index / 3, 60, 90)] + ([(190, 40, 80)] if index < 40 else [])
        frames.append(with_faces(places))
    video = write_video(tmp_path / "two.mp4", frames)
    weights = release(tmp_path / "w", recipe=recipe)
    made = make_report(video, model=weights, out=tmp_path / "r", report=ReportSettings(embed_mb=0))
    assert (made.people, made.embedded) == (2, False)
    with Browser(tmp_path / "profile", dark=True) as browser:
        browser.open((tmp_path / "r" / "report.html").as_uri())
        browser.wait_for("document.querySelector('video').readyState >= 2")
        browser.run("document.getElementById('boxes').click()")
        browser.run("seek(0.5)")
        assert browser.run("document.querySelectorAll('.box').length") == 2
        browser.run("seek(3.5)")
        assert browser.run("document.querySelectorAll('.box').length") == 1
        assert "not in the picture" in browser.run("document.querySelector('#person-1 .now').textContent")
        assert "not in" not in browser.run("document.querySelector('#person-0 .now').textContent")
        browser.run("document.getElementById('zoom').value = 3")
        browser.run("document.getElementById('zoom').dispatchEvent(new Event('input'))")
        inner, scroll = browser.run(
            "['.inner', '.scroll'].map((name) => document.querySelector('#person-0 ' + name).offsetWidth)"
        )
        assert inner > 6 * scroll
        assert browser.complaints == []
        assert {address.rsplit("/", 1)[1] for address in browser.requests} == {"report.html", "two.mp4"}
    video.rename(tmp_path / "elsewhere.mp4")
    with Browser(tmp_path / "again") as browser:
        browser.open((tmp_path / "r" / "report.html").as_uri())
        browser.wait_for("!document.getElementById('unplayable').hidden")
        browser.run("seek(1.5)")
        assert browser.run(VALUE) == pytest.approx(1.5), "the timelines work without the video"
