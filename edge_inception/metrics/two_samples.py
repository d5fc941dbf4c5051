"""The test whether two samples come from one distribution."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray


def kolmogorov_smirnov(
    first: NDArray[np.float64], second: NDArray[np.float64]
) -> tuple[float, float]:
    """Distance of two samples' distributions, 0..1, and its significance, a probability.

    The distance is the largest difference of the two shares of values up to any threshold. The
    probability that samples of one distribution are as far apart is at most the significance,
    which is the first term of the asymptotic series.

    Source:
        Smirnov, Ann. Math. Stat. 19 (1948) 279-281.

    Raises:
        ValueError: A sample is empty.
    """
    if not len(first) or not len(second):
        raise ValueError("two samples need values, and one has none")
    values = np.concatenate((first, second))
    shares = [np.searchsorted(np.sort(x), values, "right") / len(x) for x in (first, second)]
    distance = float(np.abs(shares[0] - shares[1]).max())
    weight = len(first) * len(second) / len(values)
    return distance, min(1.0, 2 * math.exp(-2 * weight * distance**2))
