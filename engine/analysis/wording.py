"""Numbers as people read them, wherever they stand: on pages and in reports. Sizes are decimal (1 MB = 10⁶ bytes). No
torch."""


def size(count: float | None) -> str:
    if count is None:
        return "—"
    unit, *larger = ("B", "KB", "MB", "GB", "TB")
    while larger and abs(count) >= 999.5:  # what would be rounded to 1000 belongs to the next unit
        unit, *larger = larger
        count /= 1000
    return f"{count:.0f} {unit}" if unit == "B" else f"{count:.3g} {unit}" if count < 100 else f"{count:.0f} {unit}"


def duration(seconds: float | None) -> str:
    if seconds is None:
        return "—"
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{count(days, 'days')} {hours} h"
    if not hours and not minutes:
        return f"{seconds} s"
    return f"{hours} h {minutes:02d} min" if hours else f"{minutes} min {seconds:02d} s"


def percent(share: float | None) -> str:
    """«12.3 %»; what is not nothing, and not all, never reads as if it were: «< 0.1 %», «> 99.9 %»."""
    if share is None:
        return "—"
    if 0 < share < 0.0005:
        return "< 0.1 %"
    return "> 99.9 %" if 0.9995 <= share < 1 else f"{100 * share:.1f} %"


def figure(value: float | None, digits: int = 2) -> str:
    return "—" if value is None else f"{value:.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 3) -> str:
    return f"{value:+.{digits}f}".replace("-", "−")


def count(number: int, what: str) -> str:
    """«3 entries», «1 entry»: `what` ends with a plural."""
    if number != 1:
        return f"{number:,} {what}"
    plural, singular = next(each for each in (("ies", "y"), ("sses", "ss"), ("s", "")) if what.endswith(each[0]))
    return f"1 {what.removesuffix(plural)}{singular}"


def between(low: float | None, high: float | None) -> str:
    return "—" if low is None else f"{figure(low)} to {figure(high)}"
