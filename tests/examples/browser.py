"""A real browser without a window, driven over WebDriver's plain HTTP: no library between us and what a person sees."""

from __future__ import annotations

import base64
import contextlib
import http.client
import json
import os
import re
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PATIENCE = 60.0
_KEYS = {"enter": "\ue007", "escape": "\ue00c", "tab": "\ue004", "control": "\ue009"}
_ELEMENT = "element-6066-11e4-a52e-4f735466cecf"  # WebDriver's name for a reference


class Browser:
    """One page of Chromium."""

    def __init__(self, port: int) -> None:
        self._port = port
        options = {
            "args": [
                "--headless=new",
                "--no-sandbox",
                "--disable-dev-shm-usage",
                "--disable-gpu",
                "--no-first-run",
            ]
        }
        capabilities = {
            "alwaysMatch": {"goog:chromeOptions": options, "goog:loggingPrefs": {"browser": "ALL"}}
        }
        self._session = self._ask("POST", "/session", {"capabilities": capabilities})["sessionId"]

    def _ask(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=PATIENCE)
        try:
            connection.request(method, path, json.dumps(body or {}) if method == "POST" else None)
            answer = json.loads(connection.getresponse().read())["value"]
        finally:
            connection.close()
        if isinstance(answer, dict) and "error" in answer:
            raise AssertionError(f"{path}: {answer['error']}: {answer['message']}")
        return answer

    def _do(self, method: str, path: str, **body: Any) -> Any:
        return self._ask(method, f"/session/{self._session}{path}", body)

    def close(self) -> None:
        """End the browser."""
        self._do("DELETE", "")

    def open(self, address: str) -> None:
        """Go to a page."""
        self._do("POST", "/url", url=address)

    def script(self, code: str, *arguments: object) -> Any:
        """What a function with this body returns, run in the page."""
        return self._do("POST", "/execute/sync", script=code, args=list(arguments))

    def text(self, selector: str) -> str:
        """The text of an element, whether it is in sight or not."""
        return str(self.script("return document.querySelector(arguments[0]).textContent", selector))

    def _element(self, selector: str) -> str:
        return str(self._do("POST", "/element", using="css selector", value=selector)[_ELEMENT])

    def click(self, selector: str) -> None:
        """Click, as a person: an element that is covered, hidden or out of reach is an error."""
        self._do("POST", f"/element/{self._element(selector)}/click")

    def type(self, selector: str, text: str, *, clear: bool = True) -> None:
        """Type into a field."""
        element = self._element(selector)
        if clear:
            self._do("POST", f"/element/{element}/clear")
        self._do("POST", f"/element/{element}/value", text=text)

    def press(self, *keys: str) -> None:
        """Press keys together, wherever the focus is."""
        values = [_KEYS.get(key, key) for key in keys]
        actions = [{"type": "keyDown", "value": value} for value in values]
        actions += [{"type": "keyUp", "value": value} for value in reversed(values)]
        self._do("POST", "/actions", actions=[{"type": "key", "id": "keyboard", "actions": actions}])

    def focus(self) -> str:
        """The id of what has the focus."""
        return str(self.script("return document.activeElement.id"))

    def until(self, code: str, what: str) -> None:
        """Wait until an expression is true in the page."""
        deadline = time.monotonic() + PATIENCE
        while not self.script(f"return {code}"):
            assert time.monotonic() < deadline, f"{what}: the page shows {self.text('body')!r}"
            time.sleep(0.02)

    def size(self, width: int, height: int) -> None:
        """Give the page another size."""
        self._devtools(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, scheme: str) -> None:
        """Say that the person prefers light or dark."""
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._devtools("Emulation.setEmulatedMedia", features=features)

    def _devtools(self, command: str, **parameters: Any) -> None:
        self._do("POST", "/goog/cdp/execute", cmd=command, params=parameters)

    def complaints(self) -> list[str]:
        """What the browser wrote into its console since the last look: errors, refusals by policy."""
        return [entry["message"] for entry in self._do("POST", "/se/log", type="browser")]

    def picture(self, path: Path) -> None:
        """A picture of what a person sees."""
        path.write_bytes(base64.b64decode(self._do("GET", "/screenshot")))


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """A browser whose every file is temporary; ended, with all its processes, at the end of the block."""
    with tempfile.TemporaryDirectory(
        prefix="b", ignore_cleanup_errors=True
    ) as folder:  # short: a socket's path has 108 bytes
        folders = dict.fromkeys(("HOME", "TMPDIR", "XDG_CONFIG_HOME", "XDG_CACHE_HOME"), folder)
        with subprocess.Popen(
            ["chromedriver", "--port=0"],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=os.environ | folders,
        ) as driver:
            try:
                page = Browser(_port_of(driver))
                try:
                    yield page
                finally:
                    page.close()
            finally:
                driver.terminate()


def _port_of(driver: subprocess.Popen[str]) -> int:
    assert driver.stdout is not None
    for line in driver.stdout:
        if found := re.search(r"started successfully on port (\d+)", line):
            return int(found[1])
    raise AssertionError("chromedriver did not start")
