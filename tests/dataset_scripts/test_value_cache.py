import pytest

from smcl.dataset_scripts.schema import DataError
from smcl.dataset_scripts.value_cache import ValueCache


def test_what_was_added_is_there_in_the_next_run(tmp_path):
    with ValueCache(tmp_path / "a") as cache:
        cache.add({"k": [{"score": 0.1}], "empty": []})
        assert cache["k"] == [{"score": 0.1}]
    again = ValueCache(tmp_path / "a")
    assert ("k" in again, again["k"], again["empty"], "other" in again) == (True, [{"score": 0.1}], [], False)


def test_a_half_last_line_is_dropped_and_the_file_is_never_appended_to(tmp_path):
    with ValueCache(tmp_path) as cache:
        cache.add({"a": 1, "b": 2})
    (file,) = tmp_path.glob("*.jsonl")
    file.write_bytes(file.read_bytes()[:-5])
    before = file.read_bytes()
    with ValueCache(tmp_path) as cache:
        assert ("a" in cache, "b" in cache) == (True, False)
        cache.add({"b": 2})
    assert file.read_bytes() == before
    assert ValueCache(tmp_path)["b"] == 2


def test_processes_at_once_have_files_of_their_own(tmp_path):
    with ValueCache(tmp_path) as one, ValueCache(tmp_path) as other:
        one.add({"a": "\ud83d"})
        other.add({"b": "ü"})
    assert len(list(tmp_path.glob("*.jsonl"))) == 2
    assert [ValueCache(tmp_path)[key] for key in "ab"] == ["\ud83d", "ü"]


@pytest.mark.parametrize("line", [b"[1]\n", b'{"key": []}\n', b'{"key": [1], "value": 2}\n', b"\xff\n", b"\n"])
def test_a_damaged_line_costs_that_line_only(tmp_path, line):
    (tmp_path / "x.jsonl").write_bytes(line + b'{"key": "a", "value": 1}\n')
    assert ValueCache(tmp_path)["a"] == 1


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="choose another folder by --cache"):
        ValueCache(tmp_path / "file" / "x").add({"a": 1})
