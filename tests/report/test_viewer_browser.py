"""The report in a real browser: it opens without errors and answers slider and keys.

The browser is that of TEMDIFF_BROWSER, or a chromium or chrome on the PATH, driven over
a pipe (Chrome DevTools Protocol), so that nothing else need be installed.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import time

import numpy as np
import pytest

from temdiff_jax import report
from temdiff_jax.report import viewer

NAMES = ("chromium", "chromium-headless-shell", "chromium-browser", "google-chrome")
TIMEOUT = 120.0  # seconds
SHAPE = (24, 48, 64)  # z, y, x


class Browser:
    """A headless chromium with one page, spoken to over file descriptors 3 and 4."""

    def __init__(self, program, folder):
        to_read, self.writes = os.pipe()
        self.reads, to_write = os.pipe()
        words = [program, "--headless", "--remote-debugging-pipe", "--no-sandbox"]
        words += [f"--user-data-dir={folder / 'profile'}", "--disable-gpu"]
        # The browser looks for descriptors 3 and 4 alone.
        shell = f'exec "$@" 3<&{to_read} 4>&{to_write}'
        with (folder / "browser.log").open("wb") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", shell, "bash", *words],
                pass_fds=(to_read, to_write),
                stdout=log,
                stderr=log,
            )
        os.close(to_read), os.close(to_write)
        self.count, self.rest, self.events, self.session = 0, b"", [], None
        target = self("Target.createTarget", url="about:blank")["targetId"]
        attached = self("Target.attachToTarget", targetId=target, flatten=True)
        self.session = attached["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self(f"{domain}.enable")

    def __call__(self, method, **params):
        self.count += 1
        said = {"id": self.count, "method": method, "params": params}
        if self.session is not None:
            said["sessionId"] = self.session
        os.write(self.writes, json.dumps(said).encode() + b"\0")
        until = time.monotonic() + TIMEOUT
        while time.monotonic() < until:
            heard = self._hear(until)
            if heard.get("id") == self.count:
                assert "error" not in heard, heard
                return heard["result"]
            self.events.append(heard)
        raise AssertionError(f"no answer to {method}")

    def _hear(self, until):
        while b"\0" not in self.rest:
            left = max(0.0, until - time.monotonic())
            assert select.select([self.reads], [], [], left)[0], "the browser is silent"
            data = os.read(self.reads, 1 << 20)
            assert data, "the browser ended"
            self.rest += data
        line, _, self.rest = self.rest.partition(b"\0")
        return json.loads(line)

    def value(self, expression):
        answer = self("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def open(self, path):
        self("Page.navigate", url=path.as_uri())
        until = time.monotonic() + TIMEOUT
        while not self.value("document.documentElement?.dataset.ready || ''"):
            assert time.monotonic() < until, self.value("document.body.innerText")
            time.sleep(0.1)

    def key(self, text):
        for kind in ("keyDown", "keyUp"):
            self("Input.dispatchKeyEvent", type=kind, key=text, text=text)

    def arrow_right(self):
        for kind in ("rawKeyDown", "keyUp"):
            self(
                "Input.dispatchKeyEvent",
                type=kind,
                key="ArrowRight",
                code="ArrowRight",
                windowsVirtualKeyCode=39,
            )

    def pixels(self, canvas):
        """[row, column, 4] uint8."""
        found = self.value(
            f"(() => {{ const c = document.getElementById('{canvas}');"
            "const d = c.getContext('2d').getImageData(0, 0, c.width, c.height).data;"
            "return [c.width, c.height, Array.from(d)]; })()"
        )
        return np.array(found[2], np.uint8).reshape(found[1], found[0], 4)

    def screenshot(self, path):
        data = self("Page.captureScreenshot", format="png")["data"]
        path.write_bytes(base64.b64decode(data))

    def close(self):
        self.process.terminate()
        self.process.wait(TIMEOUT)
        os.close(self.reads), os.close(self.writes)


@pytest.fixture
def browser(tmp_path):
    named = [os.environ.get("TEMDIFF_BROWSER"), *NAMES]
    found = [shutil.which(name) for name in named if name]
    program = next((each for each in found if each), None)
    if program is None:
        pytest.skip(
            "no browser: set TEMDIFF_BROWSER to a chromium, or install one of "
            + ", ".join(NAMES)
        )
    started = Browser(program, tmp_path)
    yield started
    started.close()


@pytest.fixture
def page(tmp_path):
    """A report of balls of different places in each volume, beside noise."""
    rng = np.random.default_rng(0)
    z, y, x = np.meshgrid(*(np.arange(n) for n in SHAPE), indexing="ij")

    def ball(radius):
        far = (z - 10) ** 2 + (y - 30) ** 2 + (x - 25) ** 2 < radius**2
        return (far + 0.1 * rng.normal(size=SHAPE)).astype(np.float32)

    tilts = rng.normal(size=(5, *SHAPE[1:])).astype(np.float32)
    content = report.Page(
        volumes={
            "fbp": ball(5),
            "tikhonov": ball(8),
            "mean": ball(12),
            "std": np.abs(ball(7)),
        },
        tilts=tilts,
        reprojection=0.9 * tilts,
        residual=-0.1 * tilts,
        angles_deg=np.linspace(-20.0, 20.0, 5),
        chi2=np.ones(5),
        title="balls: 5 tilts",
        voxel_size_angstrom=25.0,
    )
    path = tmp_path / "balls_report.html"
    run = viewer.Run(
        page=content,
        record={"run": "r1", "weights": np.ones(5)},
        decisions=["logarithm off"],
        again={"In Python": "reconstruct(tilts, angles)"},
        cover="balls_report.png",
    )
    viewer.write_run(path, run)
    return path


def differs(one, other):
    return np.mean(np.any(one != other, axis=-1)) > 0.01


@pytest.mark.slow
def test_the_report_opens_and_answers_slider_and_keys(browser, page, tmp_path):
    size = {"width": 1280, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser("Emulation.setDeviceMetricsOverride", **size)
    browser.open(page)
    assert "mean at x = 32, y = 24, z = 12" in browser.value("value.textContent")
    first = browser.pixels("xy")
    assert differs(first, np.zeros_like(first))

    browser.value("document.getElementById('z').focus()")
    for _ in range(6):
        browser.arrow_right()
    assert "z = 18" in browser.value("value.textContent")
    moved = browser.pixels("xy")
    assert differs(first, moved)

    browser.key("2")
    assert "quadratic estimate at" in browser.value("value.textContent")
    chosen = browser.pixels("xy")
    assert differs(moved, chosen)
    browser.key("b")
    assert np.array_equal(browser.pixels("xy"), moved)
    browser.key("4")
    coloured = browser.pixels("xy").astype(int)
    assert np.ptp(coloured[..., :3], axis=-1).max() > 50  # the others are grey
    browser.key("3"), browser.key("m")
    assert np.array_equal(browser.pixels("xy"), first)

    browser.value("document.querySelector('details').open = true")
    time.sleep(0.2)
    shown = browser.value("document.getElementById('record-text').textContent")
    assert json.loads(shown)["run"] == "r1"

    browser.screenshot(tmp_path / "screen.png")
    assert (tmp_path / "screen.png").read_bytes()[:4] == b"\x89PNG"

    browser("Emulation.setEmulatedMedia", media="print")
    styles = "getComputedStyle(document.querySelector('{}')).display"
    assert browser.value(styles.format(".sliders")) != "none"
    assert browser.value("document.getElementById('z').offsetParent === null")
    assert browser.value(styles.format(".gallery")) == "block"
    printed = browser("Page.printToPDF")["data"]
    assert base64.b64decode(printed)[:4] == b"%PDF"

    asked = [
        event["params"]["request"]["url"]
        for event in browser.events
        if event.get("method") == "Network.requestWillBeSent"
    ]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    bad = ("Runtime.exceptionThrown", "Runtime.consoleAPICalled")
    assert [e for e in browser.events if e.get("method") in bad] == []
    logged = [e for e in browser.events if e.get("method") == "Log.entryAdded"]
    assert [e for e in logged if e["params"]["entry"]["level"] == "error"] == []
