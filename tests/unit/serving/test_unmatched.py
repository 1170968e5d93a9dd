"""Goal: queries without a route are kept only where an operator wants them, and only the newest."""

from __future__ import annotations

from pathlib import Path

import pytest

from routers import route, running

pytestmark = pytest.mark.unit


async def test_nothing_is_kept_by_itself(tmp_path: Path) -> None:
    """They are what people wrote."""
    async with running(tmp_path / "node.sqlite") as router:
        await router.aput_route(route("a"))
        await router.aquery("nothing of the kind")

        assert (False, []) == router.diagnostics.unmatched()


async def test_newest_are_kept_with_what_came_nearest(tmp_path: Path) -> None:
    """A match is not among them, nor what a filter of the caller left out."""
    async with running(tmp_path / "node.sqlite", unmatched_kept=2) as router:
        await router.aput_route(route("a", "one text"))
        for text in ("first of all", "second of all", "third of all", "one text"):
            await router.aquery(text)
        await router.aquery("filtered", routes=["unknown"])
        is_on, found = router.diagnostics.unmatched()

        assert is_on
        assert ["third of all", "second of all"] == [each.text for each in found]
        assert {"one text"} == {each.nearest for each in found}
        assert all(each.score < each.threshold for each in found)  # type: ignore[operator]
