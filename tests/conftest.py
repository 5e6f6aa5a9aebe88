"""What all tests need of the machine."""

import os

# Debian keeps nft, and more, where an ordinary user's PATH does not look.
os.environ["PATH"] += os.pathsep + "/usr/sbin" + os.pathsep + "/sbin"
