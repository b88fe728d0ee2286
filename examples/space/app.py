"""The web page: named entities of a post with images, and what changes when an image is taken away.

    python examples/space/app.py --model demo/model [--examples demo/data] [--about TEXT]

On the Hub, the folder of this file is a Space; README.md there says how to publish it.
"""

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path

from analysis import choose_examples, describe_model, read_examples, write_examples

from smcl.dataset_scripts.command_line import CommandParser, require
from smcl.dataset_scripts.gate import prepare_posts
from smcl.predict import load_pipeline


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line.

    Args:
        argv (`Sequence[str]`, *optional*): The arguments; those of the process by default.
    """
    parser = CommandParser(__doc__)
    parser.add_argument("--model", default=os.environ.get("SMCL_MODEL"), help="folder or Hub name ($SMCL_MODEL)")
    parser.add_argument("--examples", help="data set, folder or Hub name, whose test split gives the examples")
    parser.add_argument("--about", default=os.environ.get("SMCL_ABOUT"), help="what the model knows ($SMCL_ABOUT)")
    arguments = parser.parse_args(argv)
    if not arguments.model:
        parser.error("no model: give --model, or set the variable SMCL_MODEL, to a folder or a name on the Hub")
    with parser.errors_in_one_line(), tempfile.TemporaryDirectory() as folder:
        require("The page", "smcl[app]", "gradio")
        from page import Page

        examples = Path(__file__).parent / "examples"
        if arguments.examples:
            from datasets import load_dataset

            examples = folder
            posts = load_dataset(arguments.examples, split="test")
            write_examples(choose_examples(prepare_posts(posts, where=f"--examples {arguments.examples}")), folder)
        # What visitors send is taken as content alone.
        pipe = load_pipeline(arguments.model, allow_paths=False, allow_urls=False)
        Page(pipe, read_examples(examples), describe_model(arguments.model, pipe, arguments.about)).launch()


if __name__ == "__main__":
    main()
