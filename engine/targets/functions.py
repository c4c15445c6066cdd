"""Target functions: unit, sign and meaning of what is asked. No torch."""

TARGET_FUNCTIONS = ("loss", "margin")


def harmful_sign(function: str) -> int:
    return 1 if function == "loss" else -1


def meaning(function: str) -> str:
    """The sign and the unit of a score, in one line."""
    what = "loss (nats)" if function == "loss" else "margin (logits)"
    up, down = ("harmful", "helpful") if function == "loss" else ("helpful", "harmful")
    return (
        f"A score is the derivative of the target's {what} with respect to the training "
        f"image's weight. Positive: training on it raised the {function} ({up}); negative: "
        f"lowered it ({down}). Leaving it out changes the {function} by about minus the score."
    )


def unit(function: str) -> str:
    return "nats per unit of example weight" if function == "loss" else "logits per unit of example weight"


def short_unit(function: str) -> str:
    return "nats" if function == "loss" else "logits"
