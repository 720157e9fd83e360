import pytest

pytest.register_assert_rewrite(
    "zstream.testing.conformance_life", "zstream.testing.conformance_reads"
)
