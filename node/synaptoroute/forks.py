"""Guards for objects that a forked process must not use.

A child of ``os.fork()`` has copies of locks that no thread releases, of SQLite connections
whose shared memory is the parent's, and of sockets that the parent reads from.  Using them
hangs the child, or damages what the parent and its other children use.  So in the child every
guarded object refuses each use with ``ForkedProcessError``.  The parent notices nothing, and no
call costs anything: the hook runs at a fork and changes the class of the child's copies.

The copies are never deallocated.  To close an SQLite connection writes to the shared index of
the write-ahead log, which the parent still uses.

Source: "How To Corrupt An SQLite Database File", section 2.6, https://sqlite.org/howtocorrupt.html.
"""

from __future__ import annotations

import ctypes
import os
import weakref
from collections.abc import Callable
from typing import Any, Final, TypeVar

from synaptoroute.errors import ForkedProcessError

OwnerT = TypeVar("OwnerT")
_guarded: Final[weakref.WeakKeyDictionary[Any, Callable[[Any], None] | None]] = (
    weakref.WeakKeyDictionary()
)


def guard(owner: OwnerT, in_child: Callable[[OwnerT], None] | None = None) -> None:
    """Refuse every use of an object in processes that are forked from this one.

    Args:
        owner: The object; its class allows weak references and has no metaclass of its own.
        in_child: Runs on the child's copy before it is closed to use; must not raise.
    """
    _guarded[owner] = in_child


def _refuse(owner: Any, name: str) -> Any:
    # Names such as ``__class__`` serve debuggers, ``isinstance`` and ``repr``.
    if name.startswith("__") and name.endswith("__"):
        return object.__getattribute__(owner, name)
    raise ForkedProcessError(
        f"this {type(owner).__name__} was made before the process {os.getpid()} was forked, and "
        "a forked process cannot use it; make the router, its storage and its log in the process "
        "that uses them (multiprocessing: 'spawn'; gunicorn: in each worker, without --preload)"
    )


def _refuse_set(owner: Any, name: str, value: Any) -> None:
    _refuse(owner, name)


def _ignore(owner: Any) -> None:
    """Replaces ``__del__``."""


def _closed_class(kind: type) -> type:
    members = {
        "__slots__": (),
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
        "__getattribute__": _refuse,
        "__setattr__": _refuse_set,
        "__del__": _ignore,
    }
    return type(kind.__name__, (kind,), members)


def _close_copies() -> None:
    """Close the child's copies to use.  Runs in the child, before ``fork`` returns."""
    for owner, in_child in list(_guarded.items()):
        if in_child is not None:
            in_child(owner)
        # One reference that nobody gives back: not even the interpreter's end deallocates it.
        ctypes.pythonapi.Py_IncRef(ctypes.py_object(owner))
        object.__setattr__(owner, "__class__", _closed_class(type(owner)))


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_close_copies)
