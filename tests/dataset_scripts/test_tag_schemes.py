import itertools
import random

import pytest

from smcl.dataset_scripts.tag_schemes import (
    SCHEMES,
    bio2_labels,
    guess_scheme,
    is_bio2,
    read_spelling,
    scheme_name,
    to_bio2,
    warn_of_like_types,
)

# What each scheme is defined to write for one entity of a length, if another of its type does or does not touch it.
LETTERS_OF = {
    "bio2": lambda length, before, after: ["B"] + ["I"] * (length - 1),
    "iob1": lambda length, before, after: ["B" if before else "I"] + ["I"] * (length - 1),
    "io": lambda length, before, after: ["I"] * length,
    "iobes": lambda length, before, after: ["S"] if length == 1 else ["B"] + ["I"] * (length - 2) + ["E"],
    "bilou": lambda length, before, after: ["U"] if length == 1 else ["B"] + ["I"] * (length - 2) + ["L"],
    "bmes": lambda length, before, after: ["S"] if length == 1 else ["B"] + ["M"] * (length - 2) + ["E"],
    "ioe1": lambda length, before, after: ["I"] * (length - 1) + ["E" if after else "I"],
    "ioe2": lambda length, before, after: ["I"] * (length - 1) + ["E"],
}


def write(spans, length, scheme):
    """Tag words by entities, straight from the scheme's definition."""
    tags = ["O"] * length
    for start, end, name in spans:
        before = any(e == start and n == name for _, e, n in spans)
        after = any(s == end and n == name for s, _, n in spans)
        tags[start:end] = [f"{letter}-{name}" for letter in LETTERS_OF[scheme](end - start, before, after)]
    return tags


def draw(rng, touching=True):
    spans, start = [], 0
    while start < 12:
        start += rng.choice([0, 0, 1, 2])
        end = start + rng.randint(1, 4)
        name = rng.choice("XY")
        if not touching and spans and spans[-1][1] == start and spans[-1][2] == name:
            start += 1
            continue
        spans.append((start, end, name))
        start = end
    return spans, start + rng.randint(0, 2)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_entities_come_out_of_every_scheme_as_they_go_into_bio2(scheme):
    rng = random.Random(0)
    for _ in range(500):
        spans, length = draw(rng, touching=scheme != "io")
        tags = write(spans, length, scheme)
        assert to_bio2(tags, scheme, read_spelling(tags, scheme)) == write(spans, length, "bio2")


@pytest.mark.parametrize("scheme", ["iobes", "bilou", "bmes", "ioe2"])
def test_every_sequence_is_either_some_entities_or_refused(scheme):
    letters = sorted({letter for length in (1, 2, 3) for letter in LETTERS_OF[scheme](length, False, False)})
    tags = ["O"] + [f"{letter}-{name}" for letter in letters for name in "XY"]
    legal = {}
    for count in range(3):
        for ends in itertools.combinations_with_replacement(range(4), 2 * count):
            spans = [(ends[2 * i], ends[2 * i + 1]) for i in range(count)]
            if any(s == e for s, e in spans):
                continue
            for names in itertools.product("XY", repeat=count):
                found = [(*span, name) for span, name in zip(spans, names, strict=True)]
                legal[tuple(write(found, 3, scheme))] = write(found, 3, "bio2")
    for ends in ([(0, 1), (1, 2), (2, 3)],):
        for names in itertools.product("XY", repeat=3):
            found = [(*span, name) for span, name in zip(ends, names, strict=True)]
            legal[tuple(write(found, 3, scheme))] = write(found, 3, "bio2")
    spelling = read_spelling(tags, scheme)
    for sequence in itertools.product(tags, repeat=3):
        if sequence in legal:
            assert to_bio2(sequence, scheme, spelling) == legal[sequence]
        else:
            with pytest.raises(ValueError, match="does not allow"):
                to_bio2(sequence, scheme, spelling)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["O", "PER-B", "PER-I"], [("O", ""), ("B", "PER"), ("I", "PER")]),
        (["O", "B_PER", "i_geo-loc"], [("O", ""), ("B", "PER"), ("I", "geo-loc")]),
        (["o", "b-per"], [("O", ""), ("B", "per")]),
        (["B:PER.NAM"], [("B", "PER.NAM")]),
        (["geo-loc-B", "geo-loc-I"], [("B", "geo-loc"), ("I", "geo-loc")]),
    ],
)
def test_other_spellings_are_read(names, expected):
    assert list(read_spelling(names, "bio2").values()) == expected


def test_bare_types_are_io():
    assert to_bio2(["PER", "PER", "O", "LOC"], "io", read_spelling(["PER", "O", "LOC"], "io")) == [
        *("B-PER", "I-PER", "O", "B-LOC")
    ]


@pytest.mark.parametrize("names", [["O", "PER"], ["B-"], ["B-PER", "X-PER"], ["", "O"], ["B- "]])
def test_labels_of_no_spelling_are_named(names):
    with pytest.raises(ValueError, match="is none of the scheme 'bio2'"):
        read_spelling(names, "bio2")


def test_words_that_are_not_tagged_stay_so_and_end_nothing():
    assert to_bio2(["B-X", None, "E-X"], "iobes", {"B-X": ("B", "X"), "E-X": ("E", "X")}) == ["B-X", None, "I-X"]
    assert to_bio2([None, "I-X"], "bio2", {"I-X": ("I", "X")}) == [None, "I-X"]


@pytest.mark.parametrize(
    ("names", "scheme"),
    [
        (["O", "B-X", "I-X"], "bio2"),
        (["O", "X-B", "X-I"], "bio2"),
        (["O", "B-X", "E-X", "S-X", "I-X"], "iobes"),
        (["O", "U-X", "L-X"], "bilou"),
        (["O", "M-X", "B-X", "E-X"], "bmes"),
        (["O", "PER", "LOC"], "io"),
        (["O", "I-PER"], "io"),
        (["O", "I-PER", "B-LOC", "I-LOC"], "iob1"),
        (["O", "B-X", "Z-X", "PER"], None),
        (["O", "B-X", "-"], None),
        (["O", "PER", "_"], None),
    ],
)
def test_a_hint_names_a_scheme_that_can_read_the_labels(names, scheme):
    assert guess_scheme(names) == scheme


def test_names_of_schemes_are_read_in_any_case():
    assert [scheme_name(name) for name in ("BIO", "BIOES", "biluo", "IOB1")] == ["bio2", "iobes", "bilou", "iob1"]
    with pytest.raises(ValueError, match="must be one of bio2, iob1"):
        scheme_name("bieo")


def test_labels_of_bio2():
    assert bio2_labels(["X", "Y", "X"]) == ["O", "B-X", "I-X", "B-Y", "I-Y"]
    assert [is_bio2(name) for name in ("O", "B-X", "I-X", "B-", "B- ", "o", "E-X")] == [True] * 3 + [False] * 4


@pytest.mark.parametrize("dash", ["\u2010", "\u2011", "\u2013", "\u2014", "\u2212"])
def test_dashes_of_word_processors_are_no_part_of_a_type(dash):
    names = ["O", f"B{dash}PER", f"I{dash}PER"]
    assert guess_scheme(names) == "bio2"
    assert read_spelling(names, "bio2") == {"O": ("O", ""), names[1]: ("B", "PER"), names[2]: ("I", "PER")}


@pytest.mark.parametrize("name", ["B-PER ", " B-PER", "B-PER\t", "B-PER\u00a0"])
def test_white_space_around_a_label_is_no_part_of_it(name):
    assert not is_bio2(name)
    assert read_spelling([name, "I-PER", "O "], "bio2") == {name: ("B", "PER"), "I-PER": ("I", "PER"), "O ": ("O", "")}


@pytest.mark.parametrize("names", [["0", "1", "2"], ["-100", "0"], ["PER", "1"], ["0.0", "1.0"]])
def test_numbers_written_as_text_are_no_types(names):
    assert guess_scheme(names) is None
    with pytest.raises(ValueError, match="is none of the scheme 'io'"):
        read_spelling(names, "io")


def test_types_that_differ_in_case_alone_are_said(caplog):
    warn_of_like_types(["O", "B-PER", "I-PER", "B-per", "B-Loc", "B-LOC\uff11", "B-LOC1"], "these posts")
    assert [record.getMessage().partition(" differ")[0] for record in caplog.records] == [
        "these posts: the types 'PER', 'per'",
        "these posts: the types 'LOC1', 'LOC１'",
    ]
    caplog.clear()
    warn_of_like_types(bio2_labels(["PER", "LOC", "PERSON"]), "these posts")
    assert not caplog.records
