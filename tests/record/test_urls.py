import pytest
from hypothesis import given
from hypothesis import strategies as st

from record.urls import without_password, without_secrets

SECRET = st.text(min_size=6).filter(lambda text: "@" not in text)


@given(SECRET)
def test_a_password_is_never_shown_whatever_it_is_made_of(secret: str) -> None:
    url = f"postgresql+psycopg://maskline:{secret}@db.plant:5432/results"
    assert without_password(url) == "postgresql+psycopg://***@db.plant:5432/results"
    assert secret not in without_password(f"simplecache::s3://id:{secret}@bucket/x")


@given(st.from_regex(r"[A-Za-z0-9%+/_-]{6,40}", fullmatch=True))
def test_a_secret_parameter_is_never_shown(secret: str) -> None:
    for name in ("password", "sslpassword", "sig", "X-Amz-Signature", "access_key", "token"):
        text = without_secrets(f"cannot reach https://store/x?a=1&{name}={secret}&b=2 now")
        assert text == f"cannot reach https://store/x?a=1&{name}=***&b=2 now"


@pytest.mark.parametrize("url", ["sqlite:///results.db", "results/kept", "s3://bucket/a?b=c", ""])
def test_what_is_no_secret_stays(url: str) -> None:
    assert without_password(url) == url
