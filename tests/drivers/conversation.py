"""psycopg 3 says a little of everything: parameters, preparing, a pipeline, COPY, an error."""

import psycopg
from psycopg import errors

with psycopg.connect(autocommit=True) as connection:
    assert connection.execute("SELECT 1").fetchone() == (1,)
    assert connection.execute("SELECT %s::int + 1, %s::text", (2, None)).fetchone() == (3, None)
    for number in range(3):
        row = connection.execute("SELECT %s::int * 2", (number,), prepare=True).fetchone()
        assert row == (number * 2,)
    try:
        connection.execute("SELECT 1 / %s::int", (0,))
        raise AssertionError("an error was expected")
    except errors.DivisionByZero:
        pass
    with connection.cursor(binary=True) as cursor:
        assert cursor.execute("SELECT %s::bytea", (b"\x00\xff",)).fetchone() == (b"\x00\xff",)
    with connection.transaction():
        with connection.cursor() as cursor:
            with cursor.copy("COPY conversation FROM STDIN") as copy:
                copy.write_row((4, "four"))
                copy.write_row((5, None))
            with cursor.copy("COPY conversation TO STDOUT") as copy:
                assert len(list(copy.rows())) == 5
        with connection.cursor("named") as cursor:
            cursor.execute("SELECT id FROM conversation ORDER BY id")
            assert cursor.fetchmany(2) == [(1,), (2,)]
    with connection.pipeline():
        cursors = [connection.execute("SELECT %s::int", (number,)) for number in range(3)]
    assert [cursor.fetchone() for cursor in cursors] == [(0,), (1,), (2,)]
