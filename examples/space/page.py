"""The layout of the web page, and what its parts do."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr
from analysis import (
    MAX_CHARACTERS,
    add_images,
    analyse,
    answer,
    draw_card,
    drop_gone,
    make_thumbnail,
    move_image,
    remove_image,
    render_example,
    render_notes,
)

# Once an hour, uploads that are older than one are deleted.
KEPT_SECONDS = 3600
MAX_FILE_SIZE = "20mb"
TITLE = "Named entities in posts with images"
HEAD = """<div class="smcl-head"><h1>{title}</h1>
<p>Write a post and add at most {max_images} images. Untick an image to take it away and see what changes.</p>
{about}</div>"""
# The examples come last, what they fill in comes first.
SCROLL_UP = "() => document.getElementById('text').scrollIntoView({behavior: 'smooth'})"
# A result is grey while it is not that of the text above; a text runs the way its first letter does; signs are named.
WATCH = """() => {
  const box = document.querySelector('#text textarea'), result = document.getElementById('result');
  const compare = () => {
    const shown = result.querySelector('[data-text]');
    document.body.classList.toggle('smcl-stale', shown !== null && shown.dataset.text !== box.value);
  };
  const labels = {earlier: 'Move image # earlier', later: 'Move image # later', remove: 'Remove image #'};
  const name = () => document.querySelectorAll('.smcl-movers button').forEach(button => {
    const [sign, number] = button.id.split('_'), label = labels[sign].replace('#', number);
    if (button.title !== label) button.title = button.ariaLabel = label;
  });
  box.dir = 'auto';
  box.addEventListener('input', compare);
  new MutationObserver(compare).observe(result, {childList: true, subtree: true});
  new MutationObserver(name).observe(document.querySelector('.smcl-slots'), {childList: true, subtree: true});
}"""
PART = {"elem_classes": "smcl-part", "apply_default_css": False}
HIDDEN = {"api_visibility": "private"}
# Fonts of the visitor's system: Gradio's own come from elsewhere in some versions.
THEME = gr.themes.Default(primary_hue="blue", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"])


class Page:
    """The layout of the page, and what its parts do.

    Args:
        pipe ([`MultiImageNERPipeline`]): The pipeline.
        examples (`list[dict]`): Posts with `text` and `images` (paths).
        about (`str`, *optional*): HTML about the model.
    """

    def __init__(self, pipe, examples: list[dict], about: str = ""):
        self.pipe, self.examples = pipe, examples
        self.max_images = pipe.model.config.max_images
        with gr.Blocks(analytics_enabled=False, title=TITLE, delete_cache=(KEPT_SECONDS, KEPT_SECONDS)) as self.blocks:
            gr.HTML(HEAD.format(title=TITLE, max_images=self.max_images, about=about), **PART)
            self._lay_out_post()
            self.result = gr.HTML(elem_id="result", **PART)
            self.heat_map = gr.HTML(elem_id="heat_map", **PART)
            self.look = gr.Button("Show what each part of each image does", visible=False, elem_id="look")
            self.card = gr.HTML(elem_id="card", **PART)
            self.cards = gr.Dataset(
                components=[gr.HTML(visible=False)],
                samples=[[render_example(post)] for post in examples],
                type="index",
                label="Examples",
                elem_id="examples",
            )
            self._connect()
            self._offer_endpoint()

    def _lay_out_post(self) -> None:
        self.images = gr.State([])
        with gr.Row():
            with gr.Column(min_width=300):
                self.text = gr.Textbox(
                    label=f"Post, at most {MAX_CHARACTERS:,} characters",
                    placeholder="Type or paste a post",
                    max_lines=8,
                    elem_id="text",
                )
                with gr.Row():
                    self.clear = gr.Button("Clear", min_width=80)
                    self.run = gr.Button("Find entities", variant="primary", min_width=80, elem_id="run")
                self.threshold = gr.Slider(0, 1, 0, step=0.05, label="Least score to show", elem_id="threshold")
            with gr.Column(min_width=300):
                self.files = gr.File(
                    label=f"Images, at most {self.max_images}", file_count="multiple", height=172, elem_id="files"
                )
        self.note = gr.HTML(elem_id="note", **PART)
        self.slots, self.thumbnails, self.boxes, self.movers = [], [], [], []
        with gr.Row(elem_classes="smcl-slots"):
            for slot in range(self.max_images):
                with gr.Column(visible=False, elem_classes="smcl-slot", elem_id=f"slot_{slot + 1}") as column:
                    self._lay_out_slot(slot)
                self.slots.append(column)

    def _lay_out_slot(self, slot: int) -> None:
        number = slot + 1
        self.thumbnails.append(
            gr.Image(height=110, interactive=False, buttons=[], show_label=False, alt_text=f"Image {number}")
        )
        self.boxes.append(gr.Checkbox(True, label=f"Use image {number}"))
        with gr.Row(elem_classes="smcl-movers"):
            for label, name, change in (
                ("◀", "earlier", partial(move_image, slot=slot, step=-1)),
                ("▶", "later", partial(move_image, slot=slot, step=1)),
                ("✕", "remove", partial(remove_image, slot=slot)),
            ):
                button = gr.Button(label, size="sm", min_width=32, elem_id=f"{name}_{number}")
                self.movers.append((button, change))

    def _connect(self) -> None:
        images = [self.images, *self.boxes]
        post = [self.text, self.threshold, *images]
        shown = [self.images, *self.slots, *self.thumbnails, *self.boxes, self.note]
        # One post at a time for the model, however many visitors there are; cards, which take longer, wait elsewhere.
        tag = {"fn": self.tag, "inputs": post, "outputs": [self.result, self.heat_map, self.look, self.card]}
        tag |= {"concurrency_id": "model", "concurrency_limit": 1, **HIDDEN}
        draw = {"fn": self.draw, "inputs": post, "outputs": self.card, "concurrency_id": "card", "concurrency_limit": 1}
        self.clear.click(self.start_again, None, [self.text, *shown, *tag["outputs"]], **HIDDEN)
        triggers = [self.run.click, self.text.submit, self.threshold.release, *(box.input for box in self.boxes)]
        gr.on(triggers, **tag, trigger_mode="always_last")
        self.files.upload(self.add, [self.files, *images], [self.files, *shown], **HIDDEN).then(**tag)
        self.cards.click(self.load_example, self.cards, [self.text, *shown], **HIDDEN).then(**tag)
        for button, change in self.movers:
            button.click(partial(self.change, change), images, shown, **HIDDEN).then(**tag)
        self.look.click(**tag).then(**draw, **HIDDEN)
        self.cards.click(None, js=SCROLL_UP)
        self.blocks.load(None, js=WATCH)

    def _offer_endpoint(self) -> None:
        """Offer `/find_entities` to programs, such as `gradio_client`."""
        with gr.Row(visible=False):
            text, files, threshold, found = gr.Textbox(), gr.File(file_count="multiple"), gr.Number(0), gr.JSON()
            gr.Button().click(
                self.find_entities,
                [text, files, threshold],
                found,
                api_name="find_entities",
                concurrency_id="model",
                concurrency_limit=1,
            )

    def launch(self) -> None:
        """Serve the page until the process is stopped; nothing is reported or shared."""
        self.blocks.launch(
            theme=THEME,
            css_paths=Path(__file__).parent / "style.css",
            footer_links=[],
            run_history=False,
            share=False,
            ssr_mode=False,
            max_file_size=MAX_FILE_SIZE,
        )

    def tag(self, text: str, threshold: float, images: list[str], *used: bool) -> list:
        """Show entities, what changes without the images that were taken away, and the heat map; offer the card."""
        result, heat_map = analyse(self.pipe, text, images, list(used), threshold)
        return [result, heat_map, gr.Button(visible=bool(heat_map)), ""]

    def draw(self, text: str, threshold: float, images: list[str], *used: bool) -> str:
        """Draw what each part of each image does for each entity."""
        return draw_card(self.pipe, text, images, list(used), threshold)

    def find_entities(self, text: str | None, files: list[str] | None, threshold: float) -> dict[str, Any]:
        """Find the entities of a post.

        Args:
            text (`str`): The post.
            files (`list[str]`, *optional*): Its images, in order.
            threshold (`float`): Least score.

        Returns:
            `dict`: `entities`, as the pipeline returns them, and `notes` about what was left out.
        """
        try:
            return answer(self.pipe, text or "", files or [], threshold or 0)
        except ValueError as error:
            raise gr.Error(str(error), print_exception=False) from None

    def add(self, files: list[str] | None, images: list[str], *used: bool) -> list:
        """Take files that were dropped; empty the drop zone for more."""
        return [None, *self.show(*add_images(images, list(used), files or [], self.max_images))]

    def change(self, change, images: list[str], *used: bool) -> list:
        """Move or remove an image."""
        return self.show(*drop_gone(*change(images, list(used))))

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
