"""What makes a plan so: one module for each way to set up a network."""


class BackendError(Exception):
    """The network could not be changed; the text is for people. What was there is there again."""
