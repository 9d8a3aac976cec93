"""The one exception a user should ever see: one line that names what is wrong and the way out."""

LONGEST = 1000  # characters of a line


class UserError(Exception):
    """A mistake in the user's data, config or command. Scripts print its one line and exit with code 2.

    The message names the file, row or key and says what to do, e.g.
    ``train.csv row 7: id 'a1' has no image under train/; add the image or drop the row``.
    """


def one_line(text: object) -> str:
    """A message as a terminal can show it: what it quotes may be long, have many lines or hold control characters."""
    line = str(text)
    if len(line) > LONGEST:
        line = f"{line[: LONGEST * 3 // 5]} ... {line[-LONGEST // 3 :]}"
    # repr spells what cannot be printed, a file name's line break or the bytes that are no UTF-8
    return "".join(letter if letter.isprintable() else repr(letter)[1:-1] for letter in line)
