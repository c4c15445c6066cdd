"""The command line as a rank of torchrun, of which rank 1 is on a machine without a compiler."""

import os

from engine.__main__ import console

if __name__ == "__main__":
    if os.environ["RANK"] == "1":
        os.environ["CXX"] = "/nowhere/g++"
    console()
