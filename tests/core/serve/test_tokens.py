"""Who may ask."""

import pytest

from inspection_core.errors import UsageError
from inspection_core.serve.tokens import Tokens, read_tokens

A, B = "a" * 20, "b" * 32


def test_names_of_tokens():
    tokens = Tokens({"viewer": A, "line": B})
    assert tokens.client(A) == "viewer"
    assert tokens.client(B) == "line"
    for wrong in ("", A[:-1], A + "a", "ä" * 20, "\udcff", A.upper()):
        assert tokens.client(wrong) is None


def test_tokens_are_not_kept():
    assert A not in repr(vars(Tokens({"viewer": A})))


def test_file_and_environment(tmp_path):
    file = tmp_path / "tokens"
    file.write_text(f"# who: since when\n\nviewer {A}\n{B}\n")
    tokens = read_tokens(file, {"INSPECTION_TOKEN": "c" * 20})
    assert tokens.names == ("viewer", "client4")
    assert tokens.client("c" * 20) is None
    assert read_tokens(None, {"INSPECTION_TOKEN": f" {A}\n"}).client(A) == "default"


# name: (content of the file, or None for none; error)
BAD = {
    "no token at all": (None, "needs a token"),
    "an empty file": ("# nobody\n", "needs a token"),
    "short": ("viewer abc\n", "at least 20"),
    "three words": (f"viewer {A} x\n", "line 1: a line is a token"),
    "one name twice": (f"viewer {A}\nviewer {B}\n", "line 2"),
    "no ASCII": ("ä" * 30, "at least 20 ASCII"),
    "an odd name": (f"<b>viewer</b> {A}\n", "letters, digits"),
}


@pytest.mark.parametrize(("content", "text"), BAD.values(), ids=BAD)
def test_refused(content, text, tmp_path):
    file = None
    if content is not None:
        file = tmp_path / "tokens"
        file.write_text(content)
    with pytest.raises(UsageError, match=text) as error:
        read_tokens(file, {})
    assert "abc" not in str(error.value)  # no part of a token


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(UsageError, match="cannot be read: No such file"):
        read_tokens(tmp_path / "none", {})
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="not text"):
        read_tokens(tmp_path / "binary", {})
