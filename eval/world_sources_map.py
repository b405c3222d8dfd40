"""The words of the shop's systems and the map that merges their files: what ``world_sources`` writes with.

Apart from it because these are text to read, not steps: names of columns, kinds and measures in each system's own
language, part of the catalogue in Chinese, and the template of ``map.toml``.
"""

from __future__ import annotations

import re
from string import Template
from typing import Final

from eval.world_measures import APP_VISITS, BALANCE, INCOME
from eval.world_names import REGIONS
from feature_repo.schema import CART, PURCHASE, RETURN, VIEW

BERLIN: Final = "Europe/Berlin"
SHANGHAI: Final = "Asia/Shanghai"
STORE: Final = "store"
MEASURES: Final = {BALANCE: "Saldo", INCOME: "Einkommen", APP_VISITS: "App-Besuche"}
WEB_KINDS: Final = {PURCHASE: "KAUF", RETURN: "RÜCKGABE"}
TILL_KINDS: Final = {PURCHASE: "销售", RETURN: "退货"}
LOG_KINDS: Final = {VIEW: "pageview", CART: "add_to_cart"}
CHINESE_REGIONS: Final = dict(zip(REGIONS, ("首都", "海岸", "山区", "湖区", "中部", "北部"), strict=True))
CHINESE_CATEGORIES: Final = ("tea", "coffee")
# fmt: off
CHINESE: Final = {
    "Autumn": "秋日", "Bright": "明亮", "Classic": "经典", "Dark": "浓郁", "Evening": "晚间", "Fresh": "清新",
    "Gentle": "柔和", "Golden": "金色", "Harvest": "丰收", "Hearty": "醇厚", "Highland": "高地", "Island": "海岛",
    "Mellow": "甘醇", "Midday": "午间", "Mild": "淡雅", "Morning": "清晨", "Northern": "北方", "Old": "老式",
    "Robust": "浓烈", "Royal": "皇家", "Rustic": "乡村", "Southern": "南方", "Summer": "夏日", "Winter": "冬日",
    "loose-leaf": "散装", "smoked": "烟熏", "spiced": "香料", "organic": "有机", "blended": "拼配",
    "breakfast tea": "早餐茶", "green tea": "绿茶", "chai": "印度奶茶", "tisane": "花草茶", "oolong": "乌龙茶",
    "rooibos": "博士茶", "dark-roast": "深焙", "light-roast": "浅焙", "single-farm": "单一庄园", "house": "招牌",
    "slow-roast": "慢焙", "espresso beans": "意式咖啡豆", "filter coffee": "滤泡咖啡", "decaf beans": "低因咖啡豆",
    "coffee capsules": "咖啡胶囊", "cold brew": "冷萃咖啡", "No.": "之", "(for new customers)": "（新客专享）",
    "(loyalty)": "（会员专享）",
}
# fmt: on
WORDS: Final = re.compile("|".join(re.escape(word) for word in sorted(CHINESE, key=len, reverse=True)))

MAP_TEMPLATE: Final = Template(
    """# Nine files of a shop. Times without an offset are UTC unless a source says otherwise.

[crosswalks.ids]                   # many e-mail addresses and card numbers are one customer
file = "ids.csv"
from = "id"
to = "customer"
lower = true

[tables.interactions]
key = ["order_id", "product_id", "kind"]   # the same in two exports: one interaction

[tables.customers.fields]
region = ["crm", "loyalty"]        # customer service knows better than the form at the till

[sources.orders]                   # the web shop
file = "orders.csv"
table = "interactions"
encoding = "latin-1"
delimiter = ";"
decimal = ","
thousands = "."
time_zone = "Europe/Berlin"
time_format = "%d.%m.%Y %H:%M:%S"
[sources.orders.columns]
customer_id = { column = "Konto", lower = true, crosswalk = "ids" }
product_id = "Artikel"
at = "Zeitpunkt"
kind = { column = "Vorgang", values = { KAUF = "purchase", "RÜCKGABE" = "return" } }
quantity = "Menge"
value = "Betrag"
discount = { column = "Rabatt %", factor = 0.01 }
order_id = { column = "Bestellung", strip = "W", prefix = "o" }
channel = { column = "Kanal", values = { Shop = "web", App = "app" } }
request_id = "Liste"

[sources.till]                     # the stores
file = "till-*.csv"
table = "interactions"
encoding = "gb18030"
time_zone = "Asia/Shanghai"
time_format = "%Y/%m/%d %H:%M:%S.%f"
[sources.till.columns]
customer_id = { column = "会员卡", lower = true, crosswalk = "ids" }
product_id = "货号"
at = "时间"
kind = { column = "类型", values = { "销售" = "purchase", "退货" = "return" } }
quantity = "数量"
value = { column = "金额(分)", factor = 0.01 }
discount = { column = "折扣(%)", factor = 0.01 }
order_id = { column = "小票", strip = "T", prefix = "o" }
channel = { constant = "store" }
[sources.till.columns.store_id]
column = "门店"
[sources.till.columns.store_id.values]
$stores
[sources.browsing]                 # what was looked at
file = "browsing.csv"
table = "interactions"
time_format = "epoch_ms"
[sources.browsing.columns]
customer_id = { column = "visitor", lower = true, crosswalk = "ids" }
product_id = "sku"
at = "ts"
kind = { column = "event", values = { pageview = "view", add_to_cart = "cart" } }
discount = "shown_discount"
channel = "surface"
request_id = "list"

[sources.catalogue]
file = "catalogue.csv"
table = "products"
[sources.catalogue.columns]
product_id = "货号"
name = "品名"
category = "类别"
price = "售价"
margin = "毛利"
available = { column = "在售", values = { "是" = true, "否" = false } }
launched_at = "上架"
withdrawn_at = "下架"
valid_from = "生效"
brand = "品牌"
eco = { column = "环保", type = "bool", values = { "是" = true, "否" = false } }

[sources.crm]                      # customer service
file = "crm.csv"
table = "customers"
delimiter = ";"
[sources.crm.columns]
customer_id = { column = "Kundennummer", zero_pad = 6, prefix = "c" }
signed_up_at = "Angelegt"
valid_from = "Gültig ab"
region = "Region"
age_band = "Alter"
$consents
[sources.loyalty]                  # forms filled in at the till
file = "loyalty.csv"
table = "customers"
columns = { customer_id = "customer", valid_from = "since", region = "region" }

[sources.bank]                     # a column a measure
file = "bank.csv"
table = "measures"
encoding = "utf-16"
decimal = ","
thousands = "."
empty = ["k.A."]
columns = { customer_id = { column = "Kundennummer", zero_pad = 6, prefix = "c" }, at = "Stichtag" }
wide = { $measures }
"""
)
