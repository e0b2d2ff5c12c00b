"""Why an application cannot serve, as it tells its worker."""


class Failure(Exception):
    """Why an application cannot serve: the text's first line is for the user;
    fatal tells that starting again cannot help."""

    def __init__(self, text, fatal=True, code=3):
        super(Failure, self).__init__(text)
        self.fatal = fatal
        self.code = code
