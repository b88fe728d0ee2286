"""Spellings and schemes of entity tags, and their conversion to BIO2.

In BIO2, `B-X` begins an entity of type X, `I-X` goes on with it, and `O` is outside. Other schemes mark other words
of an entity:

| scheme | letters | an entity of one, two, three words |
|---|---|---|
| `bio2` | B, I | B; B I; B I I |
| `iob1` | I, B | like `io`, but with B where an entity of the same type stands right in front |
| `io` | I, or the bare type | I; I I; I I I; neighbours of the same type are one entity |
| `iobes` | B, I, E, S | S; B E; B I E |
| `bilou` | B, I, L, U | U; B L; B I L |
| `bmes` | B, M, E, S (or W) | S; B E; B M E |
| `ioe1` | I, E | like `io`, but with E where an entity of the same type follows |
| `ioe2` | I, E | E; I E; I I E |
"""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

from transformers.utils import logging

from .schema import DataError

logger = logging.get_logger(__name__)

# What each scheme's letters do: begin, go on, end, or be all of an entity.
BEGIN, INSIDE, END, SINGLE = "begin", "inside", "end", "single"
LETTERS = {
    "bio2": {"B": BEGIN, "I": INSIDE},
    "iob1": {"B": BEGIN, "I": INSIDE},
    "io": {"I": INSIDE},
    "iobes": {"B": BEGIN, "I": INSIDE, "E": END, "S": SINGLE},
    "bilou": {"B": BEGIN, "I": INSIDE, "L": END, "U": SINGLE},
    "bmes": {"B": BEGIN, "M": INSIDE, "I": INSIDE, "E": END, "S": SINGLE, "W": SINGLE},
    "ioe1": {"I": INSIDE, "E": END},
    "ioe2": {"I": INSIDE, "E": END},
}
ALIASES = {"bio": "bio2", "iob2": "bio2", "bioes": "iobes", "biluo": "bilou", "bmeso": "bmes", "bmewo": "bmes"}
SCHEMES = tuple(LETTERS)
# Also the dashes that word processors put for a hyphen.
_SEPARATOR = r"[-_:.|/\u2010-\u2015\u2212]"
_LETTER = re.compile(r"[^\W\d_]")
_OTHER_SCHEME = re.compile(rf"[BIELSUMW]{_SEPARATOR}.+", re.DOTALL)
_PREFIX_FIRST = re.compile(rf"([A-Za-z]){_SEPARATOR}(.+)", re.DOTALL)
_TYPE_FIRST = re.compile(rf"(.+){_SEPARATOR}([A-Za-z])", re.DOTALL)


def is_bio2(name: str) -> bool:
    """Tell whether a label is `"O"`, or `"B-"` or `"I-"` with a type."""
    return name == "O" or (name[:2] in ("B-", "I-") and bool(name[2:]) and name == name.strip())


def scheme_name(scheme: str) -> str:
    """Read the name of a scheme.

    Args:
        scheme (`str`): One of `SCHEMES` or `ALIASES`, in any case.

    Returns:
        `str`: one of `SCHEMES`.

    Raises:
        ValueError: if there is no such scheme.
    """
    name = str(scheme).lower()
    name = ALIASES.get(name, name)
    if name not in SCHEMES:
        raise DataError(
            f"`--tag_scheme` must be one of {', '.join([*SCHEMES, *ALIASES])}, got {scheme!r}. Give the one that the "
            "data is tagged in."
        )
    return name


def read_spelling(names: Iterable[str], scheme: str) -> dict[str, tuple[str, str]]:
    """Read labels as people spell them: `B-PER`, `b_PER`, `PER:B`; `o` for `O`; in IO also the bare type.

    White space around a label is no part of it.

    All labels of a data set must be spelled in the same order, the letter in front if both can be read.

    Args:
        names (`Iterable[str]`): The labels.
        scheme (`str`): One of `SCHEMES`.

    Returns:
        `dict[str, tuple[str, str]]`: for each label its letter, in capitals, and its type; `("O", "")` outside.

    Raises:
        ValueError: if a label can't be read so; names it.
    """
    names, letters = list(dict.fromkeys(names)), LETTERS[scheme]
    inside = [name for name in names if name.strip() not in ("O", "o")]
    best, unread = {}, inside
    for pattern, letter, entity_type in ((_PREFIX_FIRST, 1, 2), (_TYPE_FIRST, 2, 1)):
        found = {name: match for name in inside if (match := pattern.fullmatch(name.strip()))}
        read = {name: (match[letter].upper(), match[entity_type].strip()) for name, match in found.items()}
        read = {name: (first, rest) for name, (first, rest) in read.items() if first in letters and rest}
        if len(read) == len(inside) or len(inside) - len(read) < len(unread):
            best, unread = read, [name for name in inside if name not in read]
        if not unread:
            break
    if scheme == "io" and not best:
        # Numbers, signs and the tags of other schemes are no types.
        unread = [name for name in inside if not _LETTER.search(name) or _OTHER_SCHEME.fullmatch(name.strip())]
        best = {name: ("I", name.strip()) for name in inside if name not in unread}
    if unread:
        raise ValueError(
            f"the label {unread[0]!r} is none of the scheme {scheme!r}: expected O, or {', '.join(letters)} and a type "
            f"such as '{next(iter(letters))}-PER'; the labels are {names}. Give another scheme as `--tag_scheme`, or "
            "correct the labels."
        )
    return {name: best.get(name, ("O", "")) for name in names}


def bio2_labels(types: Iterable[str]) -> list[str]:
    """Return the labels of BIO2 for some types: `["O", "B-X", "I-X", ...]`."""
    return ["O"] + [f"{letter}-{name}" for name in dict.fromkeys(types) for letter in "BI"]


def warn_of_like_types(labels: Iterable[str], where: str) -> None:
    """Say which types differ in case alone, such as `PER` and `per`, and are nevertheless different ones.

    Args:
        labels (`Iterable[str]`): Labels of BIO2.
        where (`str`): What has them.
    """
    by_key = defaultdict(set)
    for name in labels:
        by_key[unicodedata.normalize("NFKC", name[2:]).casefold().strip()].add(name[2:])
    for names in by_key.values():
        if len(names) > 1:
            logger.warning_once(
                f"{where}: the types {', '.join(map(repr, sorted(names)))} differ in case or spelling alone, and are "
                "learned and scored as different ones. If they are one, write it in the same way everywhere."
            )


def warn_of_stray_tags(count: int, posts: Sequence[str], where: str) -> None:
    """Say how many `I-` tags of BIO2 continue no entity.

    Args:
        count (`int`): How many.
        posts (`Sequence[str]`): What the posts with such tags are called.
        where (`str`): What has them.
    """
    if count:
        logger.warning(
            f"{where}: {count} I- tags in {len(posts)} posts continue no entity, in {', '.join(posts[:5])} first. "
            "They stay, and strict scores count no entity there. If the data is in IOB1, give `--tag_scheme iob1`."
        )


def to_bio2(tags: Sequence[str | None], scheme: str, spelling: Mapping[str, tuple[str, str]]) -> list[str | None]:
    """Convert the tags of a post to BIO2.

    An `I-` of BIO2 itself that continues nothing is kept as it is.

    Args:
        tags (`Sequence[str]`): The tags; `None` is a word that is not tagged: it stays so, and neither
            begins nor ends an entity.
        scheme (`str`): One of `SCHEMES`.
        spelling (`Mapping`): Of `read_spelling`.

    Returns:
        `list[str]`: as many tags of BIO2.

    Raises:
        ValueError: if a tag may not stand where it does in this scheme, which leaves open where entities end.
    """
    converted, open_type, letters = [], None, LETTERS[scheme]
    for number, tag in enumerate(tags):
        if tag is None:
            converted.append(None)
            continue
        letter, entity_type = spelling[tag]
        role = letters.get(letter)
        continues = role in (INSIDE, END) and open_type == entity_type
        if not _is_legal(scheme, role, continues, open_type):
            raise ValueError(
                f"word {number} has the tag {tag!r} after {'the start' if not number else repr(tags[number - 1])}, "
                f"which the scheme {scheme!r} does not allow"
            )
        if role is None:
            converted.append("O")
        elif continues or (scheme == "bio2" and role == INSIDE):
            converted.append(f"I-{entity_type}")
        else:
            converted.append(f"B-{entity_type}")
        open_type = entity_type if role in (BEGIN, INSIDE) else None
    if _needs_end(scheme) and open_type is not None:
        raise ValueError(f"the last tag {tags[-1]!r} leaves an entity open, which the scheme {scheme!r} does not allow")
    return converted


def _needs_end(scheme: str) -> bool:
    """Whether each entity's last word has a letter of its own."""
    return scheme in ("iobes", "bilou", "bmes", "ioe2")


def _is_legal(scheme: str, role: str | None, continues: bool, open_type: str | None) -> bool:
    if not _needs_end(scheme):
        return True
    if scheme == "ioe2":
        # An entity may begin with either letter, but only its last word has an E.
        return open_type is None or continues
    return continues if role in (INSIDE, END) else open_type is None


def guess_scheme(names: Iterable[str]) -> str | None:
    """Guess the scheme of labels, for a hint in an error; nothing is ever converted on the strength of it.

    Args:
        names (`Iterable[str]`): The labels.

    Returns:
        `str`, *optional*: the first scheme that has all of their letters; none if there is no such scheme.
    """
    names = list(names)
    for scheme in ("bio2", "iobes", "bilou", "bmes", "ioe2", "io"):
        try:
            read = read_spelling(names, scheme).values()
        except ValueError:
            continue
        if scheme == "bio2" and any(("B", name) not in read for letter, name in read if letter == "I"):
            return "iob1" if any(letter == "B" for letter, _ in read) else "io"
        return scheme
    return None
