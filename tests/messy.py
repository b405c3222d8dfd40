"""Five deliberately messy files and the map that merges them: other ids, alphabets, clocks, currencies and orders.

``messy_sources`` writes them; what becomes of every row is counted by hand in ``test_sources``. The shape is the
one the README shows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

__all__ = ["MAP", "messy_sources"]

TILL: Final = """会员,货号,时间,类型,金额(分),单号
K-01,A1,2024/05/01 08:00,销售,1999,T1
 k-02 ,B2,2024/05/01 09:30,退货,500,T2
,A1,2024/05/02 10:00,销售,1999,T3
K-99,A1,2024/05/02 11:00,销售,1999,T4
K-04,A1,2024/05/02 12:00,销售,1999,T5
K-03,B2,2024/05/03 13:00,换货,100,T6

K-03,C3
K-03,C3,2024/13/45 10:00,销售,100,T8
K-03,C3,2024/05/04 10:00,销售,abc,T9
K-03,C3,2024/05/05 10:00,销售,3000,W1
K-03,C3,2024/05/06 10:00,销售,100,坏
"""
WEB: Final = """Kunde;Artikel;Bezeichnung;Zeitpunkt;Art;Betrag;Währung;Auftrag
1e5;C3;Grüner Tee;05.05.2024 04:00;KAUF;30,00;EUR;W1
007;A1;"Becher; groß";31.03.2024 02:30;KAUF;1.234,50;EUR;W2
007;B2;Löffel;27.10.2024 02:30;RÜCKGABE;12,5;CHF;W3
007;B2;Löffel;01.06.2024 12:00;ANSICHT;;EUR;W4
007;B2;Löffel;01.06.2024 12:00;KAUF;12.50;EUR;W5
007;B2;Löffel;01.06.2024 12:00;KAUF;9,99;USD;W6
007;B2;Löffel;01.06.2024 12:00;UMTAUSCH;9,99;EUR;W7
;D4;Öl;02.06.2024 12:00;KAUF;5,00;EUR;W8
1e5;C3;Grüner Tee;05.05.2024 04:00;KAUF;31,00;EUR;W1
007;B2;Löffel;groß;01.06.2024 12:00;KAUF;9,99;EUR;W9
"""
CATALOGUE: Final = """货号,名称,类别,价格
A1,马克杯,厨房,19.99
B2,勺子,厨房,12.50
C3,绿茶,茶,30
,无名,茶,1
A1,马克杯,厨房,19.99
E5,"=HYPERLINK(""http://x"")",茶,面议
"""
CRM: Final = """Nr,Name,Geschlecht,Werbung,Region,seit
7,王芳,F,ja,上海,2020-01-05
1e5,Zoë,M,nein,Köln,2021-02-30
8,"Anna
Maria",X,ja,,2022-01-01
,Nobody,F,ja,,2022-01-01
7,王芳,F,ja,上海,2020-01-05
"""
BANK: Final = """id\tStichtag\tSaldo\tEinkommen\tRegion
007\t2024-06-30\t1.234,56\t2.000\t北京
1e5\t2024-06-30\tk.A.\tviel\tKöln
008\tnie\t1,00\t1,00\tBerlin
009\t2024-06-30\t10,00\t\tBonn
007\t2024-06-30\t1.234,56\t2.100\t北京
"""
IDS: Final = """card,customer
K-01,007
K-02,007
K-03,1e5
K-04,008
K-04,009
"""
MAP: Final = """
[crosswalks.cards]                 # many card numbers are one customer
file = "ids.csv"
from = "card"
to = "customer"

[currencies]                       # one unit in ours
EUR = 1.0
CHF = 1.05

[tables.interactions]
key = ["order_id", "product_id"]   # the same in two exports: one interaction

[tables.customers.fields]
region = ["bank_customers", "crm"] # who prevails; else the order of the sources below

[sources.till]
file = "till.csv"
table = "interactions"
encoding = "gb18030"
time_zone = "Asia/Shanghai"
time_format = "%Y/%m/%d %H:%M"
[sources.till.columns]
customer_id = { column = "会员", upper = true, crosswalk = "cards" }
product_id = "货号"
at = "时间"
kind = { column = "类型", values = { "销售" = "purchase", "退货" = "return" } }
value = { column = "金额(分)", factor = 0.01 }
order_id = "单号"

[sources.web]
file = "web.csv"
table = "interactions"
encoding = "latin-1"
delimiter = ";"
decimal = ","
thousands = "."
time_zone = "Europe/Berlin"
time_format = "%d.%m.%Y %H:%M"
[sources.web.columns]
customer_id = "Kunde"
product_id = "Artikel"
at = "Zeitpunkt"
kind = { column = "Art", values = { KAUF = "purchase", "RÜCKGABE" = "return", ANSICHT = "view" } }
value = { column = "Betrag", currency_column = "Währung" }
order_id = "Auftrag"

[sources.catalogue]
file = "catalogue.csv"
table = "products"
encoding = "gb18030"
columns = { product_id = "货号", name = "名称", category = "类别", price = "价格" }

[sources.web_products]             # the same file may feed a second table
file = "web.csv"
table = "products"
encoding = "latin-1"
delimiter = ";"
columns = { product_id = "Artikel", name = "Bezeichnung" }

[sources.crm]
file = "crm.csv"
table = "customers"
[sources.crm.columns]
customer_id = { column = "Nr", zero_pad = 3 }
signed_up_at = { column = "seit", format = "%Y-%m-%d" }
full_name = "Name"
gender = { column = "Geschlecht", values = { F = "female", M = "male" } }
consent_email = { column = "Werbung", values = { ja = true, nein = false } }
region = "Region"

[sources.bank]
file = "bank.csv"
table = "measures"
encoding = "utf-16"
decimal = ","
thousands = "."
empty = ["k.A."]
columns = { customer_id = "id", at = "Stichtag" }
wide = { balance = "Saldo", income = "Einkommen" }

[sources.bank_customers]
file = "bank.csv"
table = "customers"
encoding = "utf-16"
columns = { customer_id = "id", region = "Region" }
"""


def messy_sources(directory: Path) -> Path:
    """Write the files and their map into ``directory``, and return the map."""
    directory.mkdir(parents=True, exist_ok=True)
    till = TILL.encode("gb18030").replace(
        "坏".encode("gb18030"), b"\xff\xff"
    )  # no text in any encoding of Chinese
    (directory / "till.csv").write_bytes(till.replace(b"\n", b"\r\n"))
    (directory / "web.csv").write_bytes(WEB.encode("latin-1"))
    (directory / "catalogue.csv").write_bytes(CATALOGUE.encode("gb18030"))
    (directory / "crm.csv").write_bytes(CRM.encode("utf-8-sig"))
    (directory / "bank.csv").write_bytes(BANK.encode("utf-16"))
    (directory / "ids.csv").write_text(IDS, encoding="utf-8")
    path = directory / "map.toml"
    path.write_text(MAP, encoding="utf-8")
    return path
