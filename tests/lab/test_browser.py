"""Where people look: notebooks in JupyterLab, their static pages and the report, all in headless Chromium.

Screenshots go to build/screenshots.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

from hetlib import clone
from hetlib.cli import outputs
from hetlib.cli.report import write_page
from hetlib.lab import notebooks

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
PATIENCE = 600_000
"""Milliseconds to wait for anything: a busy machine is no error."""
SHOTS = Path(__file__).parents[2] / "build" / "screenshots"
SETTINGS = {
    "notebook-extension/tracker": '{"windowingMode": "none", "autoStartDefaultKernel": true}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}
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
    order: Literal["chain", "shuffle", "broken"] = "chain"

def view(settings):
    if settings.order == "broken":
        raise ValueError("this view cannot be drawn")
    values = [0.0, 1.0] if settings.order == "chain" else [1.0, 0.0]
    return figures.curves(None, {settings.order: [values]})

lab.Explorer(view, Settings(), lab.start("01_hmt"))
"""

TRAINER = """# %%
from dataclasses import dataclass
from typing import Literal
from hetlib import lab
from hetlib.lab import Job, figures
from hetlib.training import Recipe

run = lab.start("01_hmt", cache="cache")

@dataclass(frozen=True)
class Trial:
    lr: Literal[0.1, 0.01] = 0.1

def trial(choice):
    recipe = Recipe(epochs=100_000, lr=choice.lr, precision="fp32", augment=False)
    return Job(model="plainnet5", data="digits", recipe=recipe, options={"width": 0.25, "kernel_size": 3})

def view(choice, history):
    return figures.curves(None, {} if history is None else {"loss": [history.loss]}, ylabel="loss (nats)")

lab.Explorer(view, Trial(), run, trial)
"""


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """A JupyterLab of our own on a free port of this machine; gives its folder and its address."""
    root = tmp_path_factory.mktemp("lab")
    for name, content in SETTINGS.items():
        settings = root / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        settings.parent.mkdir(parents=True)
        settings.write_text(content)
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
    for _ in range(1200):
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
        chromium = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS, timeout=PATIENCE)
        yield chromium
        chromium.close()


def run_all(browser, server, name, notebook):
    """Open a notebook, run all its cells, and give the page once the last one has ended."""
    root, address = server
    notebooks.save(root / f"{name}.ipynb", notebook)
    page = browser.new_page(viewport={"width": 1300, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.goto(f"{address}/lab/tree/{name}.ipynb?reset")
    page.locator(".jp-Notebook").wait_for()
    assert page.evaluate(RUN_ALL), "JupyterLab did not run the cells"
    page.wait_for_function(r"""() => {
        const prompts = document.querySelectorAll('.jp-CodeCell .jp-InputArea-prompt')
        return prompts.length && /\[\d+\]/.test(prompts[prompts.length - 1].textContent)
    }""")
    return page


def shoot(page, name):
    SHOTS.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=SHOTS / f"{name}.png")


def picture(page):
    return page.locator(".jp-OutputArea img").first.get_attribute("src")


def another_picture(page, than):
    """Wait until the picture has changed, and give the new one."""
    page.wait_for_function("src => document.querySelector('.jp-OutputArea img').src !== src", arg=than)
    return picture(page)


@pytest.fixture
def page(browser, server, tmp_path, request):
    """A page with the notebook whose text the test is given, all cells run."""
    text = tmp_path / "notebook.py"
    text.write_text(request.param)
    page = run_all(browser, server, request.node.originalname, notebooks.read(text))
    yield page
    page.close()


@pytest.mark.parametrize("page", [EXPLORER], indirect=True, ids=["explorer"])
def test_a_toggle_changes_the_figure_and_an_error_is_seen(page):
    control = page.locator(".widget-dropdown select").first
    control.wait_for()
    before = picture(page)
    shoot(page, "toggle-before")
    control.select_option("shuffle")
    after = another_picture(page, before)
    shoot(page, "toggle-after")
    control.select_option("broken")
    page.get_by_role("alert").filter(has_text="this view cannot be drawn").wait_for()
    shoot(page, "toggle-error")
    assert picture(page) == after
    assert control.input_value() == "shuffle", "the control says what the picture shows"


@pytest.mark.parametrize("page", [EXPLORER], indirect=True, ids=["explorer"])
def test_the_keyboard_reaches_every_control_and_the_command_is_copied(page):
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    control = page.locator(".widget-dropdown select").first
    control.wait_for()
    before = picture(page)
    control.focus()
    page.keyboard.press("ArrowDown")
    after = another_picture(page, before)
    page.locator("[data-command*='ORDER shuffle']").wait_for()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    page.get_by_role("button", name="Copied").wait_for()
    assert page.evaluate("navigator.clipboard.readText()") == "hetlib run 01_hmt --preset classroom -p ORDER shuffle"
    page.keyboard.press("Shift+Tab")
    assert page.evaluate("document.activeElement.textContent") == "Reset"
    page.keyboard.press("Enter")
    assert another_picture(page, after) == before


@pytest.mark.parametrize("page", [TRAINER], indirect=True, ids=["trainer"])
def test_run_draws_while_it_trains_and_stop_stops(page):
    run, stop = (page.get_by_role("button", name=name, exact=True) for name in ("Run", "Stop"))
    run.wait_for()
    assert stop.is_disabled()
    before = picture(page)
    run.click()
    during = another_picture(page, before)
    message = page.get_by_text("left, training loss")
    message.wait_for()
    message.scroll_into_view_if_needed()
    shoot(page, "training")
    assert run.is_disabled()
    another_picture(page, during)
    stop.click()
    page.get_by_text("of 100000 epochs; Run goes on from there").wait_for()
    shoot(page, "training-stopped")
    assert run.is_enabled()


def test_a_notebook_runs_in_jupyterlab(browser, server):
    """One of them; every one runs, without a browser, in `test_notebooks`."""
    name = "01_hmt"
    notebook = notebooks.read(clone.find(name))
    (parameters,) = notebooks.tagged(notebook, "parameters")
    parameters.source = parameters.source.replace('PRESET: str = "classroom"', 'PRESET: str = "smoke"')
    page = run_all(browser, server, name, notebook)
    assert page.locator("[data-mime-type='application/vnd.jupyter.error']").count() == 0
    assert page.locator("[data-mime-type='application/vnd.jupyter.stderr']").count() == 0
    figures = page.locator(".jp-OutputArea img[src^='data:image/png']").all()
    assert len(figures) >= 5
    for number, figure in enumerate(figures):
        figure.scroll_into_view_if_needed()
        if number % 3 == 0:
            shoot(page, f"{name}-{number}")
    page.close()


@pytest.fixture
def offline(browser):
    """A page without any network, and what its console complained about."""
    context = browser.new_context(offline=True, viewport={"width": 1300, "height": 1000})
    context.set_default_timeout(PATIENCE)
    page, complaints = context.new_page(), []
    page.on("console", lambda message: complaints.append(message.text) if message.type in ("error", "warning") else 0)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    yield page, complaints
    context.close()


def drawn(page):
    """How many images the page shows, each of them decoded."""
    sizes = page.evaluate("Promise.all([...document.images].map(i => i.decode().then(() => i.naturalWidth)))")
    assert all(sizes)
    return len(sizes)


@pytest.mark.parametrize("name", clone.names())
def test_the_static_page_shows_every_figure_without_a_network(offline, name, tmp_path):
    from nbconvert import HTMLExporter

    published = notebooks.read(clone.folder() / f"{name}.ipynb")
    html = tmp_path / f"{name}.html"
    html.write_text(HTMLExporter().from_notebook_node(published)[0], encoding="utf-8")
    figures = [output for _, output in outputs.outputs(published) if "image/png" in output.get("data", {})]
    page, _ = offline
    page.goto(html.as_uri())
    assert drawn(page) == len(figures) >= 5
    assert page.locator("img:not([alt]), img[alt='']").count() == 0
    for number, image in enumerate(page.locator("img").all()):
        image.scroll_into_view_if_needed()
        if number % 3 == 0:
            shoot(page, f"static-{name}-{number}")


def test_the_report_opens_without_a_complaint(offline, tmp_path):
    project = Path(__file__).parents[2]
    record = next((project / "results").glob("*.json"))
    folder = tmp_path / "runs" / "01_hmt-paper-0"
    folder.mkdir(parents=True)
    shutil.copy(record, folder / "record.json")
    shutil.copy(project / "notebooks" / "01_hmt.ipynb", folder)
    page, complaints = offline
    page.goto(write_page(tmp_path / "runs", project / "results").as_uri())
    page.get_by_role("heading", name="HMT").wait_for()
    shoot(page, "report")
    for line in page.locator("summary").all():
        line.click()
    assert drawn(page) >= 5
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "no sideways scrolling"
    page.get_by_text("01_hmt, paper preset, sub-cifar100").first.scroll_into_view_if_needed()
    shoot(page, "report-runs")
    assert complaints == []
