"""The tree of errors."""

from __future__ import annotations

import pickle

import pytest

from kvmaff import errors


@pytest.mark.parametrize("name", [name for name in errors.__all__ if name != "KvmaffError"])
def test_every_error_is_a_builtin_and_pickles(name: str) -> None:
    """Every error is a KvmaffError and the builtin it means, and keeps its attributes through pickling."""
    cls = getattr(errors, name)
    builtins = (ValueError, LookupError, OSError, RuntimeError, PermissionError)
    assert issubclass(cls, errors.KvmaffError)
    assert issubclass(cls, builtins)
    error = cls("what was wrong", path="/x", problems=("a", "b"))
    twin = pickle.loads(pickle.dumps(error))
    assert cls is type(twin)
    assert ("what was wrong", "/x", ("a", "b")) == (str(twin), twin.path, twin.problems)


def test_request_error_says_everything() -> None:
    """A RequestError's text has all the problems."""
    error = errors.RequestError.of(["first", "second"])
    assert "first\nsecond" == str(error)
    assert ("first", "second") == error.problems
