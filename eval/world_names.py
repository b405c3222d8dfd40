"""The vocabulary of the simulated shop: categories, brands, regions, and names for products.

A demo is read by people, so the goods of the simulated world are goods one can picture, and what they are
agrees with how they sell: tea is bought again every month, garden tools sell in spring. Everything that is
written by hand lives here; everything that is drawn lives in ``eval.world``. The words are the project's
own: no real product, brand or shop is meant.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np


def _words(text: str) -> tuple[str, ...]:
    """Split words or phrases written with commas between them."""
    return tuple(text.split(", "))


_COLOURS: Final = _words(
    "Amber, Blue, Charcoal, Coral, Cream, Crimson, Emerald, Golden, Green, Indigo, Ivory, Lavender, "
    "Mint, Mustard, Navy, Olive, Plum, Red, Rose, Sand, Silver, Slate, Teal, White"
)
_FLAVOURS: Final = _words(
    "Autumn, Bright, Classic, Dark, Evening, Fresh, Gentle, Golden, Harvest, Hearty, Highland, Island, "
    "Mellow, Midday, Mild, Morning, Northern, Old, Robust, Royal, Rustic, Southern, Summer, Winter"
)


@dataclass(frozen=True)
class Category:
    """One kind of goods, with what makes it sell the way it does.

    Attributes
    ----------
    name, department
        As shown; categories of one department lie near each other in taste.
    price
        Median price, money.
    nouns, styles
        Words of the names.
    replenish_days
        Usual days until a used-up product is bought again; 0 for goods that last.
    peak_day, season
        Day of the year when it sells best, and how strongly: demand swings by ``exp(±season)``.
    flavours
        Names begin with a flavour word instead of a colour.
    """

    name: str
    department: str
    price: float
    nouns: tuple[str, ...]
    styles: tuple[str, ...]
    replenish_days: float = 0.0
    peak_day: int = 340
    season: float = 0.2
    flavours: bool = False


# fmt: off
CATEGORIES: Final[tuple[Category, ...]] = (
    Category("tea", "pantry", price=6, replenish_days=34, peak_day=10, season=0.3, flavours=True,
             nouns=_words("breakfast tea, green tea, chai, tisane, oolong, rooibos"),
             styles=_words("loose-leaf, smoked, spiced, organic, blended")),
    Category("coffee", "pantry", price=9, replenish_days=28, season=0.1, flavours=True,
             nouns=_words("espresso beans, filter coffee, decaf beans, coffee capsules, cold brew"),
             styles=_words("dark-roast, light-roast, single-farm, house, slow-roast")),
    Category("sweets", "pantry", price=5, replenish_days=45, season=0.7, flavours=True,
             nouns=_words("chocolate bar, toffee box, shortbread, nougat, fudge, ginger biscuits"),
             styles=_words("salted, hazelnut, orange, honey, almond, cherry")),
    Category("preserves", "pantry", price=6, replenish_days=50, peak_day=290, season=0.3, flavours=True,
             nouns=_words("marmalade, chutney, jam, compote, relish, jelly"),
             styles=_words("plum, fig, apricot, tomato, quince, chilli")),
    Category("cookware", "kitchen", price=32, season=0.3,
             nouns=_words("teapot, saucepan, casserole, frying pan, kettle, stockpot"),
             styles=_words("enamel, cast-iron, copper, steel, stoneware")),
    Category("tableware", "kitchen", price=14,
             nouns=_words("mug, plate, bowl, jug, egg cup, cake stand, serving dish"),
             styles=_words("speckled, ribbed, glazed, hand-painted, porcelain")),
    Category("baking", "kitchen", price=12, peak_day=345, season=0.6,
             nouns=_words("cake tin, rolling pin, cookie cutter, mixing bowl, whisk, pie dish"),
             styles=_words("non-stick, beechwood, ceramic, folding, vintage")),
    Category("storage", "kitchen", price=15, peak_day=20,
             nouns=_words("bread bin, spice jar, lunch box, canister, bottle rack"),
             styles=_words("airtight, bamboo, stacking, glass, tin")),
    Category("soap", "care", price=5, replenish_days=38, season=0.1, flavours=True,
             nouns=_words("soap bar, hand wash, shower gel, bath salts, body scrub"),
             styles=_words("oat, citrus, olive, rosemary, charcoal")),
    Category("skincare", "care", price=16, replenish_days=60, peak_day=15, season=0.3, flavours=True,
             nouns=_words("day cream, night cream, face oil, lip balm, hand cream, face mask"),
             styles=_words("almond, calendula, aloe, shea, rosehip")),
    Category("haircare", "care", price=9, replenish_days=46, season=0.1, flavours=True,
             nouns=_words("shampoo, conditioner, hair oil, styling clay, hair mask"),
             styles=_words("nettle, coconut, argan, birch, mint")),
    Category("laundry", "household", price=8, replenish_days=32, season=0.05, flavours=True,
             nouns=_words("washing liquid, softener, stain soap, laundry strips, starch"),
             styles=_words("linen, wool, cotton, unscented, lemon")),
    Category("cleaning", "household", price=6, replenish_days=36, peak_day=95, flavours=True,
             nouns=_words("dish soap, floor cleaner, sponge set, glass spray"),
             styles=_words("citrus, pine, vinegar, soda, lavender")),
    Category("candles", "decoration", price=11, peak_day=335, season=0.8,
             nouns=_words("candle, tea lights, lantern, candlestick, oil burner"),
             styles=_words("scented, beeswax, pillar, glass, brass")),
    Category("festive", "decoration", price=9, season=2.2,
             nouns=_words("bauble set, garland, wreath, paper star, tree topper"),
             styles=_words("glass, felt, wooden, frosted, folding")),
    Category("frames", "decoration", price=22,
             nouns=_words("photo frame, wall mirror, clock, print, vase, bookend"),
             styles=_words("oak, brass, carved, rattan, round")),
    Category("cushions", "textiles", price=24, peak_day=300, season=0.3,
             nouns=_words("cushion, throw, bolster, floor pillow, seat pad"),
             styles=_words("linen, velvet, knitted, quilted, woven")),
    Category("bed linen", "textiles", price=45, peak_day=320, season=0.3,
             nouns=_words("duvet cover, pillowcase, fitted sheet, bedspread, blanket"),
             styles=_words("percale, flannel, washed-cotton, striped, jersey")),
    Category("towels", "textiles", price=18, peak_day=180, season=0.4,
             nouns=_words("bath towel, tea towel, hand towel, bath mat, beach towel"),
             styles=_words("waffle, terry, bamboo, hammam, striped")),
    Category("garden tools", "garden", price=19, peak_day=115, season=1.3,
             nouns=_words("trowel, watering can, pruner, hand fork, dibber, kneeler"),
             styles=_words("steel, galvanised, ash-handled, forged, folding")),
    Category("seeds", "garden", price=4, peak_day=90, season=1.6, flavours=True,
             nouns=_words("tulip bulbs, herb seeds, tomato seeds, meadow mix, sweet peas"),
             styles=_words("early, climbing, dwarf, heritage, hardy")),
    Category("stationery", "paper", price=8, replenish_days=75, peak_day=245, season=0.5,
             nouns=_words("notebook, pen set, card pack, desk diary, sketchbook"),
             styles=_words("dotted, cloth-bound, pocket, recycled, marbled")),
    Category("wrapping", "paper", price=4, replenish_days=90, peak_day=342, season=1.0,
             nouns=_words("wrapping paper, ribbon, gift bag, gift tags, tissue paper"),
             styles=_words("foiled, printed, kraft, patterned, satin")),
    Category("toys", "play", price=17, peak_day=338, season=0.9,
             nouns=_words("jigsaw, building set, rag doll, card game, kite, rocking horse"),
             styles=_words("wooden, pocket, painted, travel, giant")),
)
# fmt: on
"""Everything the shop can sell, the categories of one department side by side."""

BRANDS: Final = _words(
    "Alderwick, Ashlock, Birchmoor, Brambley, Calloway, Coppergate, Dovelane, Dunmere, Eastry, Elmstead, "
    "Fennick, Foxholt, Garrowby, Greyling, Hazelow, Hollin, Inkpen, Ivelstone, Jorvale, Kestle, "
    "Kitewell, Larkmead, Lindqvale, Marlowen, Mossop, Nethercote, Norrack, Oakhanger, Otterby, Penhallow, "
    "Quillby, Ravensett, Saltbury, Thornlea, Umberfield, Venwick, Wrenfold, Yarrowby, Yewdale, Zennick"
)
"""Invented brand names."""

REGIONS: Final = ("capital", "coast", "hills", "lakes", "midlands", "north")
"""Where customers live; each region has one store."""

AGE_BANDS: Final = ("18-24", "25-34", "35-44", "45-54", "55-64", "65+")
"""Ages of customers in years, youngest first."""


def name_products(category: np.ndarray, *, rng: np.random.Generator) -> list[str]:
    """Invent a distinct English name for every product, such as ``"Blue enamel teapot"``.

    Parameters
    ----------
    category
        Shape (products,): index into ``CATEGORIES``.
    rng
        Source of chance.

    Returns
    -------
    list of str
        One name a product, in order. Once the words of a category are used up, names go on with
        ``"… No. 2"``.
    """
    names = [""] * len(category)
    for index, kind in enumerate(CATEGORIES):
        firsts = _FLAVOURS if kind.flavours else _COLOURS
        shape = (len(firsts), len(kind.styles), len(kind.nouns))
        order = rng.permutation(int(np.prod(shape)))
        for position, product in enumerate(np.flatnonzero(category == index)):
            edition, turn = divmod(position, len(order))
            first, style, noun = np.unravel_index(order[turn], shape)
            suffix = f" No. {edition + 1}" if edition else ""
            names[product] = f"{firsts[first]} {kind.styles[style]} {kind.nouns[noun]}{suffix}"
    return names
