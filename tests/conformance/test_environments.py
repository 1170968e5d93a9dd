"""Environments for packages of other projects."""

from __future__ import annotations

from environments import LOCKS, run_program


def test_program_runs_with_the_locked_version() -> None:
    wanted = (LOCKS / "openai.in").read_text().strip().partition("==")[2]
    assert run_program("openai", "openai_version.py") == {"version": wanted}


def test_lock_files_hold_hashes_and_no_index() -> None:
    for lock in LOCKS.glob("*.txt"):
        text = lock.read_text()
        assert "--hash=sha256:" in text, lock.name
        assert "://" not in text, lock.name
