"""Guards of objects that a forked process must not use; real forks are in the integration tests."""

from __future__ import annotations

import os
import weakref

import pytest

from synaptoroute import forks
from synaptoroute.errors import ForkedProcessError

pytestmark = pytest.mark.unit


class Owner:
    """Something that belongs to one process."""

    def __init__(self) -> None:
        self.value = 1

    def use(self) -> int:
        return self.value

    def __enter__(self) -> int:
        return self.use()

    def __exit__(self, *_: object) -> None: ...


def in_child(read: object) -> str:
    """Return what a function gives in a forked child."""
    assert callable(read)
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            found = repr(read())
        except BaseException as error:
            found = type(error).__name__
        os.write(write_end, found.encode())
        os._exit(0)
    os.close(write_end)
    with open(read_end, "rb") as pipe:
        found = pipe.read().decode()
    os.waitpid(pid, 0)
    return found


def test_guarded_object_is_closed_in_the_child_alone() -> None:
    """Attributes, methods that were bound before, and context managers."""
    owner, free = Owner(), Owner()
    forks.guard(owner)
    use = owner.use

    def enter() -> int:
        with owner as value:
            return value

    def change() -> None:
        owner.value = 2

    refused = [in_child(task) for task in (owner.use, use, enter, change, lambda: owner.value)]

    assert ["ForkedProcessError"] * 5 == refused
    assert "1" == in_child(free.use)
    assert 1 == owner.use()


def test_closed_object_keeps_its_type() -> None:
    """``isinstance`` and ``repr`` go on working for debuggers."""
    owner = Owner()
    forks.guard(owner)

    assert "True" == in_child(lambda: isinstance(owner, Owner))
    assert "'Owner'" == in_child(lambda: type(owner).__name__)


def test_copy_of_the_child_is_never_deallocated() -> None:
    """Not even when nothing refers to it any more."""
    owners = [Owner()]
    forks.guard(owners[0], lambda copy: None)
    seen = weakref.ref(owners[0])

    def forget() -> bool:
        owners.clear()
        return seen() is not None

    assert "True" == in_child(forget)


def test_guard_does_not_keep_an_object() -> None:
    owner = Owner()
    forks.guard(owner)
    seen = weakref.ref(owner)
    del owner

    assert seen() is None


def test_error_names_both_ways_out() -> None:
    owner = Owner()
    with pytest.raises(ForkedProcessError, match=r"spawn.*preload"):
        forks._refuse(owner, "use")
