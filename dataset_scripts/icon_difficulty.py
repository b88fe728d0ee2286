"""How hard icon posts are: knobs, and named settings of them."""

from dataclasses import dataclass

from .schema import DataError


@dataclass(frozen=True)
class Difficulty:
    """How hard icon posts are; by default as easy as can be.

    Args:
        icon_size (`tuple[float, float]`, *optional*, defaults to `(0.7, 0.95)`): Smallest and largest side of an icon,
            as a share of its image's.
        contrast (`tuple[float, float]`, *optional*, defaults to `(80, 255)`): Smallest and largest difference in
            luminance, of 255, between an icon and its background.
        noise_images (`tuple[int, int]`, *optional*, defaults to `(0, 3)`): Fewest and most images of scribbles of a
            post, as far as 4 images in all leave room.
        cue_rate (`float`, *optional*, defaults to 0): Share of names with a word before them that hints at a type.
        cue_conflict (`float`, *optional*, defaults to 0): Share of these words that hint at another type than the image
            shows, which is the right one.
        name_prior (`float`, *optional*, defaults to 0): Share of names that have the type that this name favours; the
            others' types are drawn at random.

    Raises:
        DataError: if a range or a share is out of bounds; names it.
    """

    icon_size: tuple[float, float] = (0.7, 0.95)
    contrast: tuple[float, float] = (80, 255)
    noise_images: tuple[int, int] = (0, 3)
    cue_rate: float = 0.0
    cue_conflict: float = 0.0
    name_prior: float = 0.0

    def __post_init__(self):
        for name, (lowest, highest) in {"icon_size": (0.1, 1), "contrast": (5, 255), "noise_images": (0, 3)}.items():
            low, high = getattr(self, name)
            if not lowest <= low <= high <= highest:
                raise DataError(f"`{name}` must be a range within {lowest} to {highest}, got {low} to {high}.")
        # Two colours with a difference in a narrower range would take long to find.
        if self.contrast[1] - self.contrast[0] < 5 or self.contrast[0] > 200:
            raise DataError(f"`contrast` must span 5 or more and begin at 200 or less, got {self.contrast}.")
        for name in ("cue_rate", "cue_conflict", "name_prior"):
            if not 0 <= getattr(self, name) <= 1:
                raise DataError(f"`{name}` must be a share from 0 to 1, got {getattr(self, name)}.")


EASY = Difficulty()
# By name: the number of training posts, and how hard they are.
SETTINGS = {
    "default": (2000, EASY),
    "hard": (500, Difficulty((0.6, 0.9), (40, 120), (1, 3), cue_rate=0.5, cue_conflict=0.3, name_prior=0.4)),
}
