"""Opening a page in a browser and looking at it."""

from __future__ import annotations

import json
from pathlib import Path

DESKTOP, PHONE = (1280, 900), (390, 844)  # pixels


class Browser:
    """Opens pages and looks at them."""

    def __init__(self, driver):
        self.driver = driver

    def open(self, path, size=DESKTOP, dark=False):
        self.driver.get_log("browser"), self.driver.get_log("performance")
        width, height = size
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1}
        metrics["mobile"] = size == PHONE
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
        self.driver.get(Path(path).resolve().as_uri())
        return self

    def js(self, script, *arguments):
        return self.driver.execute_script(f"return {script}", *arguments)

    def one(self, selector):
        return self.driver.find_element("css selector", selector)

    def all(self, selector):
        return self.driver.find_elements("css selector", selector)

    def each(self, selector, what):
        """Of every element `e` that matches."""
        return self.js(f"[...document.querySelectorAll(arguments[0])].map(e => {what})", selector)

    def texts(self, selector):
        return self.each(selector, "e.textContent")

    def wait(self, script):
        """Until the script is true."""
        from selenium.webdriver.support.ui import WebDriverWait

        WebDriverWait(self.driver, 10, 0.02).until(lambda _: self.js(script))

    def complaints(self):
        return [entry["message"] for entry in self.driver.get_log("browser")]

    def requested(self):
        """Addresses of all requests since the page was opened."""
        messages = (json.loads(e["message"])["message"] for e in self.driver.get_log("performance"))
        return [
            message["params"]["request"]["url"]
            for message in messages
            if message["method"] == "Network.requestWillBeSent"
        ]
