"""The web page: named entities of a post with images, and what changes when an image is taken away.

    python space/app.py --model demo/model [--examples demo/data]

On the Hub, the folder of this file is a Space; README.md there says how to publish it.
"""

import argparse
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

import gradio as gr
from analysis import (
    add_images,
    analyse,
    choose_examples,
    draw_figure,
    make_thumbnail,
    read_examples,
    render_example,
    render_notes,
    write_examples,
)

from smcl.predict import load_pipeline

FOLDER = Path(__file__).parent
MAX_CHARACTERS = 5000
# Patches on a side of an image.
PATCH_GRID = 6
# Once an hour, uploads that are older than one are deleted.
KEPT_SECONDS = 3600
MAX_FILE_SIZE = "20mb"
HEAD = """<div class="smcl-head"><h1>Named entities in posts with images</h1>
<p>Write a post and add at most {max_images} images. Untick an image to take it away and see what changes.</p></div>"""
# The examples come last, what they fill in comes first.
SCROLL_UP = "() => document.getElementById('text').scrollIntoView({behavior: 'smooth'})"
PART = {"elem_classes": "smcl-part", "apply_default_css": False}
# Fonts of the visitor's system: Gradio's own come from elsewhere in some versions.
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


class Page:
    """The layout of the page, and what its parts do.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        examples (`list[dict]`): Posts with `text` and `images` (paths).
    """

    def __init__(self, pipe, examples: list[dict]):
        self.pipe, self.examples = pipe, examples
        self.max_images = pipe.model.config.max_images
        title = "Named entities in posts with images"
        with gr.Blocks(analytics_enabled=False, title=title, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as self.blocks:
            gr.HTML(HEAD.format(max_images=self.max_images), **PART)
            self._lay_out_post()
            self.result = gr.HTML(elem_id="result", **PART)
            self.heat_map = gr.HTML(elem_id="heat_map", **PART)
            self.look = gr.Button("Show where in the images", visible=False, elem_id="look")
            self.patches = gr.HTML(elem_id="patches", **PART)
            self.cards = gr.Dataset(
                components=[gr.HTML(visible=False)],
                samples=[[render_example(post)] for post in examples],
                type="index",
                label="Examples",
                elem_id="examples",
            )
            self._connect()

    def _lay_out_post(self) -> None:
        self.images = gr.State([])
        with gr.Row():
            with gr.Column(min_width=300):
                self.text = gr.Textbox(
                    label="Post",
                    placeholder="Type or paste a post",
                    max_lines=8,
                    max_length=MAX_CHARACTERS,
                    elem_id="text",
                )
                with gr.Row():
                    self.clear = gr.Button("Clear", min_width=80)
                    self.run = gr.Button("Find entities", variant="primary", min_width=80, elem_id="run")
            with gr.Column(min_width=300):
                self.files = gr.File(
                    label=f"Images, at most {self.max_images}", file_count="multiple", height=172, elem_id="files"
                )
        self.note = gr.HTML(elem_id="note", **PART)
        self.slots, self.thumbnails, self.boxes = [], [], []
        with gr.Row(elem_classes="smcl-slots"):
            for slot in range(1, self.max_images + 1):
                with gr.Column(visible=False, elem_classes="smcl-slot", elem_id=f"slot_{slot}") as column:
                    self.thumbnails.append(
                        gr.Image(
                            height=110,
                            interactive=False,
                            buttons=[],
                            show_label=False,
                            alt_text=f"Image {slot}",
                        )
                    )
                    self.boxes.append(gr.Checkbox(True, label=f"Use image {slot}"))
                self.slots.append(column)

    def _connect(self) -> None:
        post = [self.text, self.images, *self.boxes]
        shown = [self.images, *self.slots, *self.thumbnails, *self.boxes, self.note]
        hidden = {"api_visibility": "private"}
        # One post at a time for the model, however many visitors there are.
        model = {"concurrency_id": "model", "concurrency_limit": 1, **hidden}
        figures = [self.heat_map, self.look, self.patches]
        self.clear.click(self.start_again, None, [self.text, *shown, self.result, *figures], **hidden)
        tag = {"fn": self.tag, "inputs": post, "outputs": self.result, **model}
        triggers = [self.run.click, self.text.submit, *(box.input for box in self.boxes)]
        for tagged in (
            gr.on(triggers, **tag, trigger_mode="always_last"),
            self.files.upload(self.add, [self.files, *post[1:]], [self.files, *shown], **hidden).then(**tag),
            self.cards.click(self.load_example, self.cards, [self.text, *shown], **hidden).then(**tag),
        ):
            tagged.then(self.explain, post, figures, show_progress="hidden", **model)
        self.look.click(**tag).then(self.explain_patches, post, self.patches, **model)
        self.cards.click(None, js=SCROLL_UP)

    def launch(self) -> None:
        """Serve the page until the process is stopped; nothing is reported or shared."""
        self.blocks.launch(
            theme=THEME,
            css_paths=FOLDER / "style.css",
            footer_links=[],
            run_history=False,
            share=False,
            ssr_mode=False,
            max_file_size=MAX_FILE_SIZE,
        )

    def tag(self, text: str, images: list[str], *used: bool) -> str:
        """Show the entities, and what changes without the images that were taken away."""
        return analyse(self.pipe, text, images, list(used))

    def explain(self, text: str, images: list[str], *used: bool) -> list:
        """Draw the heat map of the post as it is; offer to look at patches."""
        figure = draw_figure(self.pipe, text, images, list(used), "heat_map")
        return [figure, gr.Button(visible=bool(figure)), ""]

    def explain_patches(self, text: str, images: list[str], *used: bool) -> str:
        """Draw what each patch of each image does for each entity."""
        return draw_figure(self.pipe, text, images, list(used), "card", PATCH_GRID)

    def add(self, files: list[str] | None, images: list[str], *used: bool) -> list:
        """Take files that were dropped; empty the drop zone for more."""
        return [None, *self.show(*add_images(images, list(used), files or [], self.max_images))]

    def load_example(self, index: int) -> list:
        """Show an example."""
        post = self.examples[index]
        return [post["text"], *self.show(post["images"])]

    def start_again(self) -> list:
        """Empty the page."""
        return ["", *self.show([]), "", "", gr.Button(visible=False), ""]

    def show(self, images: list[str], used: Sequence[bool] = (), notes: Sequence[str] = ()) -> list:
        """Return updates of the images, their columns, thumbnails and boxes, and the note."""
        slots = range(self.max_images)
        thumbnails = [make_thumbnail(image) for image in images] + [None] * self.max_images
        boxes = [*used, *[True] * self.max_images]
        columns = [gr.Column(visible=slot < len(images)) for slot in slots]
        rows = [columns, thumbnails[: self.max_images], boxes[: self.max_images]]
        return [images, *(update for row in rows for update in row), render_notes(notes)]


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default=os.environ.get("SMCL_MODEL"), help="folder or Hub name ($SMCL_MODEL)")
    parser.add_argument("--examples", help="data set, folder or Hub name, whose test split gives the examples")
    arguments = parser.parse_args(argv)
    if not arguments.model:
        parser.error("no model: give --model, or set the variable SMCL_MODEL, to a folder or a name on the Hub")
    with tempfile.TemporaryDirectory() as folder:
        examples = FOLDER / "examples"
        if arguments.examples:
            from datasets import load_dataset

            examples = folder
            write_examples(choose_examples(load_dataset(arguments.examples, split="test")), folder)
        Page(load_pipeline(arguments.model), read_examples(examples)).launch()


if __name__ == "__main__":
    main()
