"""Which hard rules of the home a variant's own file of rules drops, or has otherwise.

A variant's file stands in the place of ``rules.toml`` as a whole, so that a hard rule can be tried out, too. What a
shop must not show for reasons of law or trade is lost that way where the file was not begun as a copy: so it is told,
by ``nextbest experiments check`` and by each worker that takes the file up.
"""

from __future__ import annotations

from collections.abc import Iterator

from serving.rules.config import RulesFile
from serving.rules.hard import HardRule
from serving.told import LiveRules, Plan


def dropped_rules(rules: LiveRules, plan: Plan) -> list[str]:
    """Return one sentence for each variant that is not bound by all hard rules of the home.

    Parameters
    ----------
    rules
        Those of the home.
    plan
        The experiments, with the files of rules that their variants name.
    """
    told = []
    for experiment in plan.experiments.experiments:
        for variant in experiment.variants:
            own = None if variant.rules is None else plan.rules[variant.rules].file
            lost = [] if rules.file is None or own is None else list(_lost(rules.file, own))
            if lost:
                told.append(
                    f"{experiment.name}/{variant.name} is not bound by {', '.join(lost)} of {rules.path.name}: its own "
                    f"{variant.rules} stands in the place of the whole file; copy there what must hold for everybody"
                )
    return told


def _lost(home: RulesFile, own: RulesFile) -> Iterator[str]:
    """Yield the hard rules of the home that the other file lacks, or has otherwise."""
    held = [(kind, rule) for kind, rule in own.named() if isinstance(rule, HardRule)]
    for kind, rule in home.named():
        if not isinstance(rule, HardRule) or any(_same(rule, other) for _, other in held):
            continue
        has_one = any(rule.name == other.name and kind == its for its, other in held)
        yield f"{kind} {rule.name!r}{' (which it has otherwise)' if has_one else ''}"
    if home.due is not None and home.due != own.due:
        yield "due" + ("" if own.due is None else " (which it has otherwise)")


def _same(rule: HardRule, other: HardRule) -> bool:
    """Return whether two rules say the same, whatever they are called."""
    return rule.model_copy(update={"name": ""}) == other.model_copy(update={"name": ""})
