"""The report of a rolling evaluation: one page a product owner can sign, and an index of all of them."""
