"""What `make docs` does: outputs that README and docs show are run again."""

import sys

import printed
import pytest
from printed import refresh

PAGE = """# A page

```bash
exit 3
```

```python
import math
number = 2
```

Not run: nothing is shown of it.

```python
value = math.pi if "math" in globals() else 3.14159
print("pi", value)
```

```
{output}
```

```python
print(value > 3, "and a word")
```

```
True and a word
```

```console
$ echo one
one
$ echo two \\
    words
{words}
```
"""


def test_a_page_whose_outputs_hold_stays_to_the_letter():
    page = PAGE.format(output="pi 3.1420", words="two words")
    assert refresh(page) == page


@pytest.mark.parametrize(
    ("stale", "now"),
    [
        ({"output": "pi 3.15"}, {"output": "pi 3.14159"}),
        ({"output": "tau 3.14159"}, {"output": "pi 3.14159"}),
        ({"output": "pi 3.14159\nmore"}, {"output": "pi 3.14159"}),
        ({"words": "two other words"}, {"words": "two words"}),
        ({"words": "two"}, {"words": "two words"}),
    ],
)
def test_a_stale_output_alone_is_replaced(stale, now):
    right = {"output": "pi 3.14159", "words": "two words"}
    assert refresh(PAGE.format(**(right | stale))) == PAGE.format(**(right | now))


def test_a_command_that_fails_stops_the_page():
    with pytest.raises(Exception, match="exit status 4"):
        refresh("```console\n$ exit 4\n```\n")
    with pytest.raises(ZeroDivisionError):
        refresh("```python\n1 / 0\n```\n\n```\n```\n")


def test_a_stale_page_is_written_shown_and_ends_with_status_1(tmp_path, monkeypatch, capsys):
    (tmp_path / "demo" / "model").mkdir(parents=True)
    (tmp_path / "demo" / "model" / "model.safetensors").touch()
    page = tmp_path / "page.md"
    page.write_text("```console\n$ ls demo\nnothing\n```\n")
    arguments = ["printed.py", "--demo", str(tmp_path / "demo"), "--pages", str(page)]
    monkeypatch.setattr(sys, "argv", arguments)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match=r"Stale until now: page\.md"):
        printed.main()
    assert "-nothing\n+model\n" in capsys.readouterr().out
    assert page.read_text() == "```console\n$ ls demo\nmodel\n```\n"
    printed.main()
    monkeypatch.setattr(sys, "argv", [*arguments[:2], str(tmp_path / "none"), *arguments[3:]])
    with pytest.raises(SystemExit):
        printed.main()
    assert "run `make demo`" in capsys.readouterr().err
