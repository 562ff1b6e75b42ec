"""What tests of servers share."""

from tests.helpers.browser import browser  # noqa: F401
