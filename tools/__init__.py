"""What developers run beside the tests: the data set's making, measurements, pictures. Each is a process of its own."""

import os

os.environ.setdefault(
    "OMP_WAIT_POLICY", "PASSIVE"
)  # as the app and the command line compute; read when torch is loaded
