"""The notebooks where people use them: JupyterLab in headless Chromium. Screenshots go to build/screenshots."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from hetlib.lab import notebooks

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
SHOTS = Path(__file__).parents[1] / "build" / "screenshots"
SETTINGS = '{"windowingMode": "none", "autoStartDefaultKernel": true}'
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
FLAGS += ["--disable-background-networking", "--disable-component-update"]

# Cells that are run before the kernel has answered once are silently left out.
RUN_ALL = """async () => {
    const panel = window.jupyterapp.shell.currentWidget
    await panel.revealed
    await panel.sessionContext.ready
    await panel.sessionContext.session.kernel.info
    return window.jupyterapp.commands.execute('notebook:run-all-cells')
}"""

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: install it, or name it in $CHROMIUM"),
]

EXPLORER = """# %%
from dataclasses import dataclass
from typing import Literal
from hetlib import lab
from hetlib.lab import figures

@dataclass(frozen=True)
class Settings:
    shape: Literal["rising", "falling", "broken"] = "rising"

def view(settings):
    if settings.shape == "broken":
        raise ValueError("this view cannot be drawn")
    values = [0.0, 1.0] if settings.shape == "rising" else [1.0, 0.0]
    return figures.curves(None, {settings.shape: [values]})

lab.Explorer(view, Settings())
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A JupyterLab of our own on a free port of this machine; gives its folder and its address."""
    root = tmp_path_factory.mktemp("lab")
    settings = root / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text(SETTINGS)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root", f"--port={port}", "--ip=127.0.0.1"]
    command += ["--IdentityProvider.token=", f"--ServerApp.root_dir={root}", "--LabApp.expose_app_in_browser=True"]
    environment = os.environ | {"JUPYTERLAB_SETTINGS_DIR": str(root / "settings"), "HETLIB_PROCESSES": "1"}
    environment.pop("HETLIB_HEADLESS", None)
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        address = f"http://127.0.0.1:{port}"
        try:
            _wait_for(f"{address}/api", process)
            yield root, address
        finally:
            process.terminate()


def _wait_for(address, process):
    for _ in range(120):
        try:
            return urllib.request.urlopen(address, timeout=2)
        except OSError:
            assert process.poll() is None, "JupyterLab stopped while starting"
            time.sleep(0.5)
    raise TimeoutError(f"nothing answers at {address}")


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


def run_all(browser, server, name, notebook, minutes=4.0):
    """Open a notebook, run all its cells, and give the page once the last one has ended."""
    root, address = server
    notebooks.save(root / f"{name}.ipynb", notebook)
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
    page.locator(".jp-Notebook").wait_for(timeout=60_000)
    page.set_default_timeout(minutes * 60_000)
    assert page.evaluate(RUN_ALL), "JupyterLab did not run the cells"
    page.wait_for_function(r"""() => {
        const prompts = document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')
        return prompts.length && /\[\d+\]/.test(prompts[prompts.length - 1].textContent)
    }""")
    return page


def shoot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def test_a_toggle_changes_the_figure_and_an_error_is_seen(browser, server, tmp_path):
    text = tmp_path / "explorer.py"
    text.write_text(EXPLORER)
    page = run_all(browser, server, "explorer", notebooks.read(text))
    picture = lambda: page.locator(".jp-OutputArea img").first.get_attribute("src")
    control = page.locator(".widget-dropdown select").first
    control.wait_for()
    before = picture()
    shoot(page, "toggle-before")
    control.select_option("falling")
    page.wait_for_function("src => document.querySelector('.jp-OutputArea img').src !== src", arg=before)
    after = picture()
    shoot(page, "toggle-after")
    assert before != after
    control.select_option("broken")
    page.get_by_role("alert").filter(has_text="this view cannot be drawn").wait_for()
    shoot(page, "toggle-error")
    page.close()


@pytest.mark.parametrize("name", notebooks.names())
def test_a_notebook_runs_in_jupyterlab(browser, server, name):
    notebook = notebooks.read(notebooks.find(name))
    (parameters,) = notebooks.tagged(notebook, "parameters")
    parameters.source = parameters.source.replace('PRESET: str = "classroom"', 'PRESET: str = "smoke"')
    page = run_all(browser, server, name, notebook)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    assert page.locator(".jp-OutputArea img").count() >= 5
    for number, figure in enumerate(page.locator(".jp-OutputArea img").all()):
        figure.scroll_into_view_if_needed()
        if number % 3 == 0:
            shoot(page, f"{name}-{number}")
    page.close()
