"""Rules: what merchandisers change about answers without a release, read from ``rules.toml``."""

from serving.rules.rules import Asked, Rules, load_rules

__all__ = ["Asked", "Rules", "load_rules"]
