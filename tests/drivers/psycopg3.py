"""psycopg 3 through pgring: statements, pipelines, COPY, transactions, cancel, LISTEN."""

import asyncio
import threading

import psycopg
from psycopg import errors


def connect(**options):
    return psycopg.connect(autocommit=True, **options)


def statements():
    """The driver prepares by itself after five runs, and every connection on its own."""
    connections = [connect() for _ in range(4)]
    for number, connection in enumerate(connections):
        connection.prepare_threshold = 2
    for round_ in range(12):
        for number, connection in enumerate(connections):
            row = connection.execute(f"SELECT %s::int + {number % 2}, %s", (round_, f"c{number}"))
            assert row.fetchone() == (round_ + number % 2, f"c{number}")
    for connection in connections:
        connection.execute("DEALLOCATE ALL")
    for number, connection in enumerate(connections):
        row = connection.execute("SELECT %s::text", (f"again {number}",), prepare=True).fetchone()
        assert row == (f"again {number}",)
        connection.close()


def types():
    with connect() as connection:
        cursor = connection.cursor(binary=True)
        values = (7, 1.5, "text", b"\x00\xff", None, [1, 2, 3], True)
        cursor.execute("SELECT %s::int, %s::float8, %s::text, %s::bytea, %s::int, %s::int[], %s", values)
        assert cursor.fetchone() == values
        rows = connection.execute("SELECT i, repeat('x', i) FROM generate_series(1, 2000) i").fetchall()
        assert len(rows) == 2000 and rows[-1][1] == "x" * 2000
        many = connection.cursor()
        many.executemany("SELECT %s::int", [(i,) for i in range(50)], returning=True)
        seen = [many.fetchone()[0]]
        while many.nextset():
            seen.append(many.fetchone()[0])
        assert seen == list(range(50)), seen


def pipelines():
    with connect() as connection:
        with connection.pipeline() as pipeline:
            cursors = [connection.execute("SELECT %s::int", (i,)) for i in range(100)]
            pipeline.sync()
            assert [cursor.fetchone()[0] for cursor in cursors] == list(range(100))
        try:
            with connection.pipeline():
                connection.execute("SELECT 1")
                connection.execute("SELECT 1/0")
                connection.execute("SELECT 2")
            raise AssertionError("an error was expected")
        except errors.DivisionByZero:
            pass
        assert connection.execute("SELECT 3").fetchone() == (3,)


def copy():
    with connect() as connection:
        connection.execute("DROP TABLE IF EXISTS psycopg_copy")
        connection.execute("CREATE TABLE psycopg_copy (id int, name text)")
        with connection.cursor() as cursor:
            with cursor.copy("COPY psycopg_copy FROM STDIN") as stream:
                for i in range(10000):
                    stream.write_row((i, f"name {i}"))
            with cursor.copy("COPY psycopg_copy TO STDOUT") as stream:
                assert sum(1 for _ in stream.rows()) == 10000
            try:
                with cursor.copy("COPY psycopg_copy FROM STDIN") as stream:
                    stream.write_row((1, "one"))
                    raise ZeroDivisionError
            except ZeroDivisionError:
                pass
            try:
                with cursor.copy("COPY psycopg_copy FROM STDIN") as stream:
                    stream.write("not a number\tx\n")
                raise AssertionError("an error was expected")
            except errors.InvalidTextRepresentation:
                pass
        count = connection.execute("SELECT count(*) FROM psycopg_copy").fetchone()
        assert count == (10000,), count
        connection.execute("DROP TABLE psycopg_copy")


def transactions():
    with connect() as connection:
        connection.execute("CREATE TABLE psycopg_tx (i int)")
        with connection.transaction():
            connection.execute("INSERT INTO psycopg_tx VALUES (1)")
            try:
                with connection.transaction():
                    connection.execute("INSERT INTO psycopg_tx VALUES (2)")
                    connection.execute("SELECT 1/0")
            except errors.DivisionByZero:
                pass
        with connection.transaction(force_rollback=True):
            connection.execute("INSERT INTO psycopg_tx VALUES (3)")
            with connection.cursor(name="named") as cursor:
                cursor.itersize = 10
                cursor.execute("SELECT generate_series(1, 55)")
                assert sum(row[0] for row in cursor) == 55 * 56 // 2
        assert connection.execute("SELECT i FROM psycopg_tx").fetchall() == [(1,)]
        connection.execute("DROP TABLE psycopg_tx")
        connection.execute("SET app.x = 'psycopg'")
        with connect(options="-c app.x=other -c TimeZone=Asia/Tokyo") as other:
            assert other.execute("SHOW app.x").fetchone() == ("other",)
            assert other.info.parameter_status("TimeZone") == "Asia/Tokyo"
        assert connection.execute("SHOW app.x").fetchone() == ("psycopg",)


def cancel():
    with connect() as connection:
        timer = threading.Timer(0.3, connection.cancel)
        timer.start()
        try:
            connection.execute("SELECT pg_sleep(30)")
            raise AssertionError("an error was expected")
        except errors.QueryCanceled:
            pass
        timer.join()
        assert connection.execute("SELECT 1").fetchone() == (1,)


def listen():
    with connect() as listener, connect() as speaker:
        listener.execute("LISTEN psycopg_news")
        for i in range(3):
            speaker.execute("SELECT pg_notify('psycopg_news', %s)", (str(i),))
        heard = []
        for notice in listener.notifies():
            heard.append(notice.payload)
            if len(heard) == 3:
                break
        assert heard == ["0", "1", "2"], heard
        listener.execute("UNLISTEN *")


async def asynchronous():
    async def work(number):
        async with await psycopg.AsyncConnection.connect(autocommit=True) as connection:
            for i in range(30):
                cursor = await connection.execute("SELECT %s::text", (f"{number}-{i}",))
                assert await cursor.fetchone() == (f"{number}-{i}",)
                async with connection.transaction():
                    cursor = await connection.execute(f"SELECT {number}, %s::int", (i,))
                    assert await cursor.fetchone() == (number, i)

    await asyncio.gather(*(work(number) for number in range(8)))


statements()
types()
pipelines()
copy()
transactions()
cancel()
listen()
asyncio.run(asynchronous())
