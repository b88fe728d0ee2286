import os

import pytest

from smcl.dataset_scripts.files import check_writable, write_whole


def test_a_file_takes_its_name_when_it_is_complete(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    # Of a run that was killed.
    (tmp_path / ".a.txt.unfinished").write_text("more than is written now")
    with write_whole(path) as unfinished:
        unfinished.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_writing_that_fails_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(error), write_whole(str(path)) as unfinished:
        unfinished.write_text("half")
        raise error
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_folders_that_can_be_made_or_written_to_pass_and_are_not_made(tmp_path):
    check_writable(tmp_path, "--output")
    check_writable(tmp_path / "a" / "b", "--output")
    assert not (tmp_path / "a").exists()


def test_places_that_are_no_folders_are_refused(tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "file/below/it", "link", "link/below"):
        with pytest.raises(ValueError, match="`--output` is .*no folder that can be written to: found a file in the"):
            check_writable(tmp_path / name, "--output")


def test_folders_that_nobody_may_write_to_are_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda path, mode: path != tmp_path)
    with pytest.raises(ValueError, match="nothing may be written in .*Choose another place"):
        check_writable(tmp_path / "a", "--output")
