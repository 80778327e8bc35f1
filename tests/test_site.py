"""The site that ``make docs`` builds: nothing on it comes from elsewhere, its search and filters work, and it fits.

Skipped until it is built.
"""

import functools
import json
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browsing import asked_addresses, browser, in_browser

ROOT = Path(__file__).parents[1]
SITE = ROOT / "site"
pytestmark = pytest.mark.skipif(not SITE.is_dir(), reason="make docs has not built the site")


@pytest.fixture
def served():
    """The address of a server of the site, as that of ``python -m http.server``."""

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Handler, directory=SITE)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


def waits(driver, condition):
    from selenium.webdriver.support.ui import WebDriverWait

    return WebDriverWait(driver, 20).until(lambda _: condition())


def search(driver, words):
    """Type into the search of a page, and return the titles of what is found."""
    driver.find_element("css selector", "input.md-search__input").send_keys(words)
    waits(driver, lambda: driver.find_elements("css selector", ".md-search-result__item h1"))
    return [one.text for one in driver.find_elements("css selector", ".md-search-result__item h1")]


@in_browser
@pytest.mark.parametrize("opened", ["from a server", "as files"])
def test_search_works_and_nothing_else_is_asked(opened, served):
    place = served if opened == "from a server" else f"{SITE.as_uri()}/"
    with browser() as driver:
        for page in ("index.html", "zoo.html", "api.html"):
            driver.get(place + page)
            waits(driver, lambda: driver.execute_script("return document.readyState") == "complete")
            titles = search(driver, "ByteTrack")
            assert "Use a model" in titles, titles
        assert [url for url in asked_addresses(driver) if not url.startswith(place)] == []
        assert [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []


@in_browser
def test_no_page_is_wider_than_a_phone_and_no_block_than_a_page(served):
    pages = sorted(SITE.glob("*.html"))
    assert len(pages) > 30
    wide = "[...document.querySelectorAll('article pre code')].filter((one) => one.scrollWidth > one.clientWidth)"
    with browser(width=390) as phone, browser(width=1280) as desktop:
        for page in pages:
            phone.get(served + page.name)
            assert phone.execute_script("return document.documentElement.scrollWidth") <= 390, page.name
            desktop.get(served + page.name)
            assert desktop.execute_script(f"return {wide}.map((one) => one.textContent)") == [], page.name


@in_browser
def test_a_long_table_is_filtered(served):
    entries = json.loads((ROOT / "convnext_dense/checkpoints/zoo.json").read_text())["models"]
    licensed = [name for name, entry in entries.items() if entry["licence"] == "MIT" and "cascade" in name]
    with browser() as driver:
        driver.get(f"{served}zoo.html")
        bar = driver.find_element("class name", "table-filter")
        shown = lambda: [row.text.split()[0] for row in driver.find_elements("css selector", "tbody tr:not([hidden])")]  # noqa: E731
        assert bar.find_element("tag name", "output").text == f"{len(entries)} of {len(entries)}"
        bar.find_element("tag name", "input").send_keys("CASCADE box")
        assert set(shown()) == {name for name in entries if "cascade" in name}
        choice = bar.find_element("css selector", "select[aria-label=licence]")
        choice.find_element("css selector", "option[value=MIT]").click()
        assert sorted(shown()) == sorted(licensed)
        assert bar.find_element("tag name", "output").text == f"{len(licensed)} of {len(entries)}"
        driver.get(f"{served}finetuning.html")
        assert driver.find_elements("class name", "table-filter") == []
