"""A handful of the faults of `make faults`, on one appliance, and one broken appliance that has to be found out."""

from __future__ import annotations

import pytest
from faultlab.lab import Lab
from faultlab.scenarios import SCENARIOS, wipe_broker


@pytest.mark.timeout(240)
def test_nothing_receipted_is_lost_whatever_is_killed() -> None:
    with Lab("short", seed=1) as lab:
        lab.start()
        lab.usual(100)
        for point in ("committed-not-receipted", "receipted-not-acknowledged", "upserted-not-done"):
            lab.arm(point)
            lab.fires(point)
            lab.recovered()
        wipe_broker(lab)
        lab.recovered()
        lab.kill_all()
        lab.start()
        lab.recovered()
        assert lab.verdict() == []
        assert all(sender.sent().receipted for sender in lab.senders)


@pytest.mark.timeout(240)
def test_an_appliance_that_acknowledges_before_commit_is_found_out() -> None:
    scenario = SCENARIOS["control: acknowledges before COMMIT"]
    outcome = scenario.run(1)
    assert any(scenario.must_find in each for each in outcome.wrong), outcome
