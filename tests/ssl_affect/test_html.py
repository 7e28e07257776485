from html.parser import HTMLParser

from ssl_affect.html import Page, data_uri

EVIL = "<script>alert(\"x\")</script> & 'quotes'"


class Collector(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data):
        self.texts.append(data)


def parse(page: Page) -> Collector:
    collector = Collector()
    collector.feed(page.render())
    return collector


def full_page() -> Page:
    page = Page(EVIL)
    page.heading(EVIL)
    page.text(EVIL)
    page.code(EVIL)
    page.details(EVIL, EVIL)
    page.table([EVIL, "n"], [[EVIL, 1234567], [True, 0.123456789]])
    page.image(b"\x89PNG", EVIL, width=10)
    page.audio(b"fLaC", EVIL)
    return page


def test_all_text_is_escaped():
    found = parse(full_page())
    assert "script" not in found.tags
    assert found.texts.count(EVIL) == 11  # title, h1, h2, p, pre, summary and its pre, th, td, two captions
    assert ("alt", EVIL) in found.attributes


def test_the_page_needs_no_other_file():
    found = parse(full_page())
    sources = [value for name, value in found.attributes if name in ("src", "href")]
    assert sources == [data_uri(b"\x89PNG", "image/png"), data_uri(b"fLaC", "audio/flac")]
    assert sources[0] == "data:image/png;base64,iVBORw=="


def test_numbers_are_set_flush_right_and_truth_values_are_words():
    rendered = full_page().render()
    assert '<td class="n">1,234,567</td>' in rendered
    assert '<td class="n">0.1235</td>' in rendered
    assert "<td>True</td>" in rendered


def test_writing_gives_the_rendered_text(tmp_path):
    page = full_page()
    page.write(tmp_path / "report.html")
    assert (tmp_path / "report.html").read_text(encoding="utf-8") == page.render()
