"""Which variant is better: an experiment read so that it can be trusted, and policies valued from another one's log.

``moments`` → ``looks`` → ``effect`` are the mathematics, over arrays of any shape so that a thousand simulated
experiments are one call; ``shares`` asks first whether the split is what was planned; ``customers`` makes one row a
customer of what was shown and done; ``comparison`` holds a treatment against the control; ``reading`` puts all together
and ``verdict`` says it in a sentence; ``planned`` is what the experiments' file says of it. ``credits`` →
``interleaving`` read answers that mix two variants. ``replay`` → ``counterfactual`` value a bundle by slots that
chance decided, with the estimators of ``offpolicy``. Every kind has results, a verdict and a page (``pages``).
"""
