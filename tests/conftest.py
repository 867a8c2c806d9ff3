"""Settings of all tests."""

from hypothesis import settings

# No deadline: the machines that run this are shared, and speed is measured by benchmarks. The same examples every time:
# a change that lands must not fail tomorrow by chance.
settings.register_profile("copo", deadline=None, derandomize=True)
settings.load_profile("copo")
