"""Numbers among the options of a data source, `?key=value&key=value`; what is read is taken out of them."""

from math import inf

from skerry.errors import DataError

NUMBER_MAX = 1 << 32


def whole_number(options: dict[str, str], key: str, default: int, most: int = NUMBER_MAX) -> int:
    """Take a whole number from the options of a data source.

    Raises:
        DataError: it is none, or above `most`.
    """
    text = options.pop(key, str(default))
    if not text.isascii() or not text.isdecimal() or len(text) > 12 or int(text) > most:
        raise DataError(f"data source option {key}={text}: must be a whole number from 0 to {most}")
    return int(text)


def positive_number(options: dict[str, str], key: str, default: float) -> float:
    """Take a finite number above 0 from the options of a data source.

    Raises:
        DataError: it is none.
    """
    text = options.pop(key, str(default))
    try:
        number = float(text)
    except ValueError:
        number = 0.0
    if not 0.0 < number < inf:
        raise DataError(f"data source option {key}={text}: must be a number above 0")
    return number
