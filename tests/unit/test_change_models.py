"""Results of tests and promotions as documents."""

from __future__ import annotations

import pytest

from synaptoroute.change_models import Promotion, ShadowReport

pytestmark = pytest.mark.unit

WRITTEN = {"status": "applied", "op_id": "0" * 32, "version": "1.4"}


def test_promotion_has_evidence_only_with_a_gate() -> None:
    evidence = {
        "gate": {"max_regressions": 0},
        "target": "new",
        "target_revision": "1.3",
        "regressions": 0,
    }
    gated = Promotion.model_validate({**WRITTEN, "evidence": evidence})

    assert gated.evidence is not None
    assert (gated.evidence.regressions, gated.evidence.failures) == (0, [])
    assert Promotion.model_validate(WRITTEN).evidence is None


def test_report_of_an_alias_without_a_shadow_counts_nothing() -> None:
    report = ShadowReport(alias="live", node="n", set="old", shadow=None)

    assert (report.compared, report.agreement, report.pairs) == (0, None, [])
