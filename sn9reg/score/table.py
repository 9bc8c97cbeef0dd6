"""A score as a table for people: one row per number, with and without registration."""

from sn9reg.score.scoring import Score

_LABELS = {"sn9_score": "SpaceNet 9 score", "sn9_mean_px": "SpaceNet 9 mean, px"} | {
    f"{key}_{unit}": f"{label}, {unit}"
    for unit in ("px", "m")
    for key, label in (("mean", "mean"), ("median", "median"), ("rmse", "RMSE"), ("ce90", "CE90"))
}


def score_rows(scored: Score) -> list[tuple[str, str, str]]:
    """(label, with registration, without) of each number that one of them has."""
    with_, without = scored.as_dict(), scored.as_dict()["without_registration"]
    rows = [(label, with_[key], without[key]) for key, label in _LABELS.items()]
    return [(label, _text(one), _text(other)) for label, one, other in rows if not one is other is None]


def _text(value: float | None) -> str:
    return "no value" if value is None else f"{value:.2f}"
