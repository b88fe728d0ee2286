"""Draw the pictures that README shows: the web page, and the card of a post with photographs.

    python tests/pictures.py --demo demo --photographs FOLDER    # or `make pictures PHOTOGRAPHS=FOLDER`

The page is that of the model of `make demo`, in Chromium. The card is that of `docs/photographs/post.json`, by a model
that knows photographs, such as one trained on natural posts; without `--photographs` it stays as it is.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from playwright import sync_api
from web import BROWSER, FLAGS, free_port, wait_for

ROOT = Path(__file__).parents[1]
# Of the examples of the page, the last, which has two names, and the image that shows the first of them.
EXAMPLE, AWAY = -1, 1


def draw_page(demo: Path, path: Path) -> None:
    """Serve the web page, and take its picture."""
    place = {"GRADIO_SERVER_NAME": "127.0.0.1", "GRADIO_SERVER_PORT": str(free_port())}
    address = "http://{GRADIO_SERVER_NAME}:{GRADIO_SERVER_PORT}".format(**place)
    program = [sys.executable, ROOT / "examples" / "space" / "app.py"]
    options = ["--model", demo / "model", "--examples", demo / "data"]
    with tempfile.NamedTemporaryFile("w") as log:
        server = subprocess.Popen([*program, *options], env=os.environ | place, stdout=log, stderr=subprocess.STDOUT)
        try:
            wait_for(address, server, Path(log.name), 120)
            shoot(address, path)
        finally:
            server.terminate()
            server.wait()


def shoot(address: str, path: Path) -> None:
    """Take a picture of the page after an image was taken away from an example."""
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=BROWSER, args=FLAGS)
        page = browser.new_page(viewport={"width": 900, "height": 900})
        page.goto(address)
        page.locator(".smcl-example").nth(EXAMPLE).click()
        page.locator("#result .smcl-post").wait_for()
        cells = page.frame_locator("#heat_map iframe").locator("td")
        cells.first.wait_for()
        before = cells.count()
        page.get_by_role("checkbox", name=f"Use image {AWAY + 1}").uncheck()
        sync_api.expect(page.locator("#result .smcl-post")).to_have_count(2, timeout=60_000)
        sync_api.expect(cells).not_to_have_count(before, timeout=60_000)
        cells.first.wait_for()
        page.screenshot(path=path, full_page=True)
        browser.close()


def main() -> None:
    """Draw what is asked for into `docs/`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--demo", type=Path, default=Path("demo"), help="what `make demo` wrote (%(default)s)")
    parser.add_argument("--photographs", type=Path, help="a model that knows photographs")
    arguments = parser.parse_args()
    draw_page(arguments.demo.resolve(), ROOT / "docs" / "app.png")
    if arguments.photographs is not None:
        command = [sys.executable, "-m", "smcl.predict.figures.plot", "--model", arguments.photographs]
        post, card = ROOT / "docs" / "photographs" / "post.json", ROOT / "docs" / "card.png"
        subprocess.run([*command, "--post", post, "--output", card], check=True)


if __name__ == "__main__":
    main()
