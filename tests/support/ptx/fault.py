"""What a machine stops at."""


class Fault(AssertionError):
    """The program does something that a GPU would punish, or silently do wrong."""


class Unsupported(NotImplementedError):
    """The program has something that the machine does not know. It never guesses."""
