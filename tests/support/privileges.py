"""What a container may do, seen from inside it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

_LOOK = r"""
echo user $(id -u)
echo group $(id -g)
grep -E '^(CapInh|CapPrm|CapEff|CapBnd|CapAmb|NoNewPrivs|Seccomp):' /proc/self/status | tr -d :
for place in / /usr /etc /opt /bin; do
  if touch $place/written-by-a-test 2>/dev/null; then echo written $place; fi
done
grep -E '^[^ ]+ / ' /proc/mounts | tail -n 1 | cut -d' ' -f4 | cut -d, -f1 | sed 's/^/root /'
"""


@dataclass(frozen=True)
class Privileges:
    """What was found.

    Attributes:
        user: Number of the user that the first process runs as.
        group: Number of its group.
        capabilities: Every set of the kernel's that is not empty, by its name.
        root: How the root is mounted: ``ro`` or ``rw``.
        written: Places outside its volumes where a file could be made.
        may_gain: Whether a program may have more rights than who starts it.
        is_filtered: Whether system calls are filtered.
    """

    user: int
    group: int
    capabilities: dict[str, str]
    root: str
    written: tuple[str, ...]
    may_gain: bool
    is_filtered: bool


def look(container: Any) -> Privileges:
    """Look from inside."""
    code, out = container.exec_run(["sh", "-c", _LOOK])
    assert code == 0, out
    pairs = [line.split() for line in out.decode().splitlines()]
    told = {name: value for name, value in pairs if name != "written"}
    sets = {name: value for name, value in told.items() if name.startswith("Cap")}
    assert len(sets) == 5, out
    return Privileges(
        user=int(told["user"]),
        group=int(told["group"]),
        capabilities={name: value for name, value in sets.items() if int(value, 16)},
        root=told["root"],
        written=tuple(value for name, value in pairs if name == "written"),
        may_gain=told["NoNewPrivs"] != "1",
        is_filtered=told["Seccomp"] == "2",
    )


def assert_contained(container: Any) -> Privileges:
    """Not root, nothing to write on, no capability, nothing to gain, system calls filtered.

    The user is asked of a new process in the container and of the engine: a number in both.
    """
    found = look(container)

    assert 0 < found.user, container.name
    assert {} == found.capabilities, container.name
    assert "ro" == found.root, container.name
    assert () == found.written, container.name
    assert not found.may_gain, container.name
    assert found.is_filtered, container.name
    assert container.attrs["Config"]["User"].partition(":")[0].isdecimal(), container.name
    return found
