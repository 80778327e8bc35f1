"""The site that ``make docs`` builds: nothing on it comes from elsewhere, its search works, and no page is too wide.

Skipped until it is built.
"""

import functools
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from browsing import asked_addresses, browser, in_browser

SITE = Path(__file__).parents[1] / "site"
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
            assert "Use the model" in titles, titles
        assert [url for url in asked_addresses(driver) if not url.startswith(place)] == []
        assert [line["message"] for line in driver.get_log("browser") if line["level"] == "SEVERE"] == []


@in_browser
def test_no_page_is_wider_than_a_phone(served):
    pages = sorted(SITE.glob("*.html"))
    assert len(pages) > 30
    with browser(width=390) as driver:
        for page in pages:
            driver.get(served + page.name)
            assert driver.execute_script("return document.documentElement.scrollWidth") <= 390, page.name
