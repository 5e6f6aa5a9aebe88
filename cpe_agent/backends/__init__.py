"""What makes a plan so: one module for each way to set up a network."""


class BackendError(Exception):
    """The network could not be changed. The text is for people, and says what is there now."""
