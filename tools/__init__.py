"""What developers run beside the tests: the data set's making, measurements, pictures."""
