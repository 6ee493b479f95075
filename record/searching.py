"""Where to look for parts whose id or lot begins in a certain way, so that no table is read whole.

Few matches are looked up by their numbers. Of many, the moments of the first and of the last bound
the search: parts of one lot lie close together. Where a beginning is common, any page is full soon.
"""

from sqlalchemy import (
    Column,
    ColumnElement,
    Connection,
    Select,
    and_,
    false,
    func,
    literal,
    or_,
    select,
    true,
    union_all,
)

from record.tables import results

_FEW, _COMMON = 2000, 50_000
_LAST_SIGN = "\U0010ffff"


def narrowed(connection: Connection, prefix: str) -> ColumnElement[bool]:
    """Return a condition that every match meets, and that bounds what has to be read."""
    ranges = [_range(results.c[name], prefix) for name in ("part_id", "lot")]
    few: list[Select[tuple[int]]] = [
        select(results.c.id).where(matches).limit(_FEW + 1) for matches in ranges
    ]
    numbers = connection.execute(union_all(*(select(part.subquery()) for part in few))).scalars()
    if len(matching := set(numbers)) <= _FEW:
        return results.c.id.in_(matching)
    return or_(false(), *(_between(connection, matches) for matches in ranges))


def _between(connection: Connection, matches: ColumnElement[bool]) -> ColumnElement[bool]:
    """Bound the moments of matches, unless there are so many that looking is not worth it."""
    at = results.c.inspected_at
    matching = select(at).where(matches).limit(_COMMON + 1).subquery()
    if int(connection.execute(select(func.count()).select_from(matching)).scalar() or 0) > _COMMON:
        return true()
    moments = select(func.min(at), func.max(at)).where(matches)
    first, last = connection.execute(moments).one()
    return false() if first is None else and_(at >= first, at <= last)


def _range(column: Column[str], prefix: str) -> ColumnElement[bool]:
    """What an index has in one piece: texts are ordered by their signs' numbers in both."""
    end = literal(prefix + _LAST_SIGN)
    return and_(column >= prefix, column < end)
