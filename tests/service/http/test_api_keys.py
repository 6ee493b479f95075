import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.http.api_keys import (
    Key,
    KeyRing,
    KeysError,
    Role,
    add_key,
    in_order,
    key_digest,
    read_keys,
    rights_of,
)

held = st.frozensets(st.sampled_from(Role), min_size=1)


@pytest.mark.parametrize(
    ("role", "contained"),
    [
        (Role.READ, {Role.READ}),
        (Role.VIEW, {Role.READ, Role.VIEW}),
        (Role.REVIEW, {Role.READ, Role.VIEW, Role.REVIEW}),
        (Role.SCORE, {Role.READ, Role.SCORE}),
        (Role.OPERATE, {Role.READ, Role.VIEW, Role.REVIEW, Role.SCORE, Role.OPERATE}),
        (Role.ADMIN, {*Role}),
    ],
)
def test_what_a_role_contains(role: Role, contained: set[Role]) -> None:
    assert rights_of(frozenset({role})) == contained


@given(left=held, right=held)
def test_several_roles_may_what_each_may_and_no_more(
    left: frozenset[Role], right: frozenset[Role]
) -> None:
    assert rights_of(left | right) == rights_of(left) | rights_of(right)
    assert rights_of(rights_of(left)) == rights_of(left)
    assert Role.READ in rights_of(left)
    assert all(Key("a", left, "", "").may(role) is (role in rights_of(left)) for role in Role)


@given(roles=held)
def test_roles_are_read_as_they_were_written(roles: frozenset[Role]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.json"
        secret = add_key(path, "line-3", *roles)
        [row] = json.loads(path.read_text())["keys"]
        key = KeyRing(path).find(secret)
    assert key is not None
    assert key.roles == roles
    if len(roles) == 1:  # what earlier releases read
        assert row["role"] == next(iter(roles)).value
        assert "roles" not in row
    else:
        assert row["roles"] == in_order(roles)
        assert "role" not in row


def test_a_file_of_an_earlier_release_is_read(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    rows = [
        {"name": name, "role": name, "sha256": key_digest(name), "created": "2025-01-01"}
        for name in ("score", "operate", "admin")
    ]
    path.write_text(json.dumps({"keys": rows}, indent=2))
    ring = KeyRing(path)
    for name in ("score", "operate", "admin"):
        key = ring.find(name)
        assert key is not None
        assert key.roles == {Role(name)}
    add_key(path, "new", Role.VIEW)
    assert json.loads(path.read_text())["keys"][:3] == rows  # written as they were


def test_a_key_is_known_by_its_digest_until_it_is_revoked(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    secret = add_key(path, "a", Role.REVIEW)
    ring = KeyRing(path)
    digest = key_digest(secret)
    assert ring.may(digest, Role.VIEW)
    assert not ring.may(digest, Role.SCORE)
    path.write_text('{"keys": []}')
    assert not ring.may(digest, Role.VIEW)


def test_a_key_has_a_role_at_least(tmp_path: Path) -> None:
    with pytest.raises(KeysError, match="a role at least") as caught:
        add_key(tmp_path / "keys.json", "a")
    assert caught.value.code == "key_role_missing"
    assert read_keys(tmp_path / "keys.json") == ()
