"""The ranker: the second stage, which puts candidates in order by the chance of a purchase, learnt and calibrated here.

It crosses to serving as LightGBM's text, a table of chances and the product features it reads; ``serving.ranking``
makes the rows, here and there the same ones.
"""
