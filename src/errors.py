"""The one exception a user should ever see: one line that names what is wrong and the way out."""


class UserError(Exception):
    """A mistake in the user's data, config or command. Scripts print its one line and exit with code 2.

    The message names the file, row or key and says what to do, e.g.
    ``train.csv row 7: id 'a1' has no image under train/; add the image or drop the row``.
    """
