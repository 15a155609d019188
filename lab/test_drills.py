"""The plans of the fault drills: a seed is all that there is to know of a schedule."""
import os
import sys

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
from drills import plan  # noqa: E402

OPERATIONS = {name for after in plan.NEXT.values() for name in after} | set(plan.ANYWHERE)


def test_a_seed_always_gives_the_same_plan_and_another_seed_another():
    plans = [str(plan.plan(seed)) for seed in range(50)]
    assert plans == [str(plan.plan(seed)) for seed in range(50)]
    assert len(set(plans)) == 50


def test_the_plans_of_a_long_run_hold_every_operation_and_every_fault_often():
    steps = [step for seed in range(300) for step in plan.plan(seed).steps]
    for operation in OPERATIONS:
        assert sum(step.operation == operation for step in steps) >= 20, operation
    strikes = [strike for step in steps for strike in step.strikes]
    for kind in plan.FAULTS:
        assert sum(strike.kind == kind for strike in strikes) >= 30, kind


def test_operations_lead_somewhere_that_is_known():
    for after in plan.NEXT.values():
        for place, weight in after.values():
            assert place in plan.NEXT and weight > 0
