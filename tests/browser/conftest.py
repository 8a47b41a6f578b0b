"""One Chromium for all tests of a session, and pages to look at with it."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.browser.looking import Browser
from tests.tables.reported import finished_sweep

HERE = Path(__file__).parent
BROWSERS = ("chromium", "chromium-browser", "google-chrome")


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.browser)
            item.add_marker(pytest.mark.xdist_group("browser"))  # one browser is enough


@pytest.fixture(scope="session")
def chromium():
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    driver = shutil.which("chromedriver")
    if browser is None or driver is None:
        lacking = "chromedriver" if browser else "Chromium"
        pytest.skip(f"no {lacking} here: apt-get install chromium chromium-driver")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = browser
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    made = webdriver.Chrome(options=options, service=Service(driver))
    made.set_script_timeout(20)
    allowed = ["clipboardReadWrite", "clipboardSanitizedWrite"]
    made.execute_cdp_cmd("Browser.grantPermissions", {"permissions": allowed})
    yield Browser(made)
    made.quit()


@pytest.fixture(scope="session")
def report(tmp_path_factory):
    """A folder with a finished sweep full of hostile texts, one run missing, and its page."""
    from vexp.sweeps.plan import make_plan
    from vexp.sweeps.reader import read_sweep
    from vexp.tables.report.contents import report_of
    from vexp.tables.report.page import page

    folder = tmp_path_factory.mktemp("browser")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        plan = finished_sweep(folder)
        # A folder is found by its hash, whatever stands before it.
        run = folder / "results/runs" / plan.runs[0].name
        run.rename(run.with_name(f"<img src=x onerror=alert(2)>-{run.name.rpartition('-')[2]}"))
        for number in (4, 5):  # both seeds: a cell without a value
            shutil.rmtree(folder / "results/runs" / plan.runs[number].name)
        found = report_of(make_plan(read_sweep(folder / "demo.yaml")))
    path = folder / "report.html"
    path.write_text(page(found), "utf-8")
    return path, found
