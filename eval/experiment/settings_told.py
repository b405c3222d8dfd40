"""With which settings an experiment was read, as its page tells them: each by the option that changes it."""

from __future__ import annotations

from eval.experiment.counterfactual_results import CounterfactualSetting
from eval.experiment.interleaving_results import InterleavingSetting
from eval.experiment.results import Setting
from eval.report.look import percent

#: What is told, the option that changes it, and its value.
Told = list[tuple[str, str, str]]


def settings_told(setting: Setting) -> Told:
    """Return those of an A/B test."""
    margins = ", ".join(f"{name} {percent(margin, 0)}" for name, margin in setting.margins.items())
    since = "the first exposure" if setting.since is None else f"{setting.since:%Y-%m-%d %H:%M:%S} UTC"
    return [
        ("what decides", "--metric", setting.metric),
        ("control", "--control", setting.control),
        ("days that count, from a first exposure on", "--window", f"{setting.window_days}"),
        ("customers whose days are not over", "--immature", "read" if setting.immature else "left out"),
        ("exposures read from", "--since", since),
        ("days of the customers' own past", "--past", f"{setting.past_days}"),
        ("gain worth finding", "--smallest", percent(setting.smallest)),
        ("harm put up with", "--margin", margins),
        *_statistics(setting),
    ]


def interleaving_told(setting: InterleavingSetting) -> Told:
    """Return those of an interleaved experiment."""
    return [
        ("what decides", "--metric", setting.metric),
        ("control", "--control", setting.control),
        ("days that count after an answer", "--window", f"{setting.window_days}"),
        ("hours to an answer that is not named", "--hours", f"{setting.hours:g}"),
        ("preference worth finding", "--smallest", percent(0.5 + setting.smallest)),
        *_statistics(setting),
    ]


def counterfactual_told(setting: CounterfactualSetting) -> Told:
    """Return those of a bundle valued from a log."""
    return [
        ("what decides", "--metric", setting.metric),
        ("answers of", "--control", setting.variant or "every variant"),
        ("days that count after an answer", "--window", f"{setting.window_days}"),
        ("answers whose days are not over", "--immature", "read" if setting.immature else "left out"),
        ("hours to an answer that is not named", "--hours", f"{setting.hours:g}"),
        ("largest weight", "--clip", "not bounded" if setting.clip is None else f"{setting.clip:g}"),
        ("confidence", "--confidence", percent(setting.confidence, 0)),
    ]


def _statistics(setting: Setting | InterleavingSetting) -> Told:
    looks = "once, at the planned end" if setting.looks == "one" else "at any time"
    return [
        ("looked at", "--final", looks),
        ("customers planned for", "--expected", f"{setting.expected:,}"),
        ("confidence", "--confidence", percent(setting.confidence, 0)),
        ("chance to find that gain", "--power", percent(setting.power, 0)),
    ]
