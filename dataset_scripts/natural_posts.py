"""Make natural posts: photo posts nearer to what people post, in MNER-MI's published layout.

As `photo_posts`, but every type has photographs of its own, in folders named by the type: a portrait for PER, a place
for LOC, a brand's logo for ORG, an animal or a film poster for MISC, whatever else for noise. And three things mislead:

- photographs of every type lie beside tweets in which nothing was replaced, where they mean nothing;
- one mention of twenty has lost its photograph;
- the test posts show other photographs than the training posts, if the folders do.

    python -m smcl.dataset_scripts.natural_posts --tweets DIR --photos DIR --output OUT [--scale 0.5 --seed 0]
    python -m smcl.dataset_scripts.mner_mi --source OUT --output data/natural_posts

`--photos` has `{train,test}/{PER,LOC,ORG,MIS,noise}/<class>/` with image files; the classes of a type are equally
frequent. What is written stands in `python -m smcl.dataset_scripts.photo_posts --help`.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from .photo_posts import ENTITY_TYPES, Photographs, list_photographs, run_maker
from .schema import DataError, require_folder

NOISE = "noise"
LOST_RATE = 0.05


class NaturalPhotographs(Photographs):
    """Photographs by type and class; a type, or `"noise"`, is a motif. See [`Photographs`]."""

    most_beside = 3

    def list_files(self, folder: Path) -> dict[str, list[list[Path]]]:
        """Return the photographs of each type, and of noise, by class."""
        return {motif: self._list_classes(folder / motif) for motif in (*ENTITY_TYPES, NOISE)}

    def _list_classes(self, folder: Path) -> list[list[Path]]:
        require_folder(folder, "photographs", "Put a folder of image files for each class there, or check --photos.")
        classes = sorted(path for path in folder.iterdir() if path.is_dir())
        if not classes:
            raise DataError(f"There is no class in {folder}. Expected folders of image files. Check --photos.")
        return [list_photographs(path) for path in classes]

    def choose(self, entity_type: str, rng: random.Random) -> str | None:
        """Return the type, now and then `None`."""
        return entity_type if rng.random() >= LOST_RATE else None

    def choose_noise(self, rng: random.Random) -> str:
        """Return `"noise"`."""
        return NOISE

    def choose_any(self, rng: random.Random) -> str:
        """Return a type or `"noise"`."""
        return rng.choice([*ENTITY_TYPES, NOISE])

    def draw(self, motif: str, split: str, rng: random.Random) -> Path:
        """Return a photograph of any class of the type."""
        return rng.choice(rng.choice(self.files[split][motif]))


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command line; `argv` are the arguments, those of the process by default."""
    run_maker(__doc__, NaturalPhotographs, argv)


if __name__ == "__main__":
    main()
