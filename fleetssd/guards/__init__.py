"""Guard tasks: what a coder must not forget while it learns, as questions whose answers grade themselves."""

from fleetssd.guards.checks import Check
from fleetssd.guards.items import Item, parse_items
from fleetssd.guards.margins import Guard, weigh, weigh_shares

__all__ = ["Check", "Guard", "Item", "parse_items", "weigh", "weigh_shares"]
