"""The built site in a headless browser: no error in the console, contrast, and no need of scripts.

`make check` builds the site and names its folder in DKMEANS_SITE. The browser is the system's
Chromium; where there is none, or no playwright, the tests are skipped.
"""

import os
import shutil
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# What Sphinx and the theme make beside pages that somebody reads.
NO_PAGES = ("_modules", "_static", "genindex", "py-modindex", "search")


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *arguments):
        """Log nothing."""


@pytest.fixture(scope="module")
def site():
    if "DKMEANS_SITE" not in os.environ:
        pytest.skip("make check builds the site and runs this test")
    folder = ROOT / os.environ["DKMEANS_SITE"]
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=folder)) as server:
        threading.Thread(target=server.serve_forever).start()
        names = [path.relative_to(folder).as_posix() for path in sorted(folder.rglob("*.html"))]
        pages = [name for name in names if not name.startswith(NO_PAGES)]
        yield [f"http://127.0.0.1:{server.server_port}/{page}" for page in pages]
        server.shutdown()


@pytest.fixture(scope="module")
def browser():
    api = pytest.importorskip("playwright.sync_api")
    program = shutil.which("chromium") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("Chromium is not installed")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.timeout(900)
def test_pages_open_without_an_error_and_their_text_has_contrast(site, browser):
    axe = pytest.importorskip("axe_playwright_python.sync_playwright").Axe()
    for scheme in ("light", "dark"):
        page = browser.new_context(color_scheme=scheme, reduced_motion="reduce").new_page()
        errors = []
        page.on("console", lambda said, errors=errors: errors.append(said))
        page.on("pageerror", lambda error, errors=errors: errors.append(error))
        for address in site:
            page.goto(address)
            found = axe.run(page, options={"runOnly": ["color-contrast"]}).response["violations"]
            assert found == [], f"{address}, {scheme}"
        assert [each for each in errors if getattr(each, "type", "error") == "error"] == []


@pytest.mark.timeout(900)
def test_pages_can_be_read_and_left_without_javascript(site, browser):
    page = browser.new_context(java_script_enabled=False).new_page()
    for address in site:
        page.goto(address)
        assert page.locator("h1").first.is_visible(), address
        assert page.locator("nav a.nav-link", has_text="Guide").first.is_visible(), address
    page.locator("nav a.nav-link", has_text="Guide").first.click()
    assert page.url.endswith("guide/index.html")
