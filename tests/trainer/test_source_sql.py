"""Rows of real databases, SQLite and MariaDB: each cell as it was put in, no password anywhere, mistakes in words."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy

from conf.schema import Component
from tests.trainer.ranks import Member
from tests.trainer.samples import everything
from trainer.data.splits import Split
from trainer.failure import UserError
from trainer.sources import Data, sql

pytestmark = pytest.mark.usefixtures("node")
SECRET = "s3cret:p@ss/w0rd"
"""As hostile as a password may be; in a URL each of its signs is quoted."""
QUOTED = "s3cret%3Ap%40ss%2Fw0rd"
USER = "reader_of_rows"
ROWS = [(i, i / 4, ["ox", "ant", "bee"][i % 3], 2015 + i % 10, f"2026-01-{1 + i % 28:02}") for i in range(60)]


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of the tests' own, behind a socket; gives the URL of a user who may read."""
    folder = Path(tempfile.mkdtemp(dir="/dev/shm" if Path("/dev/shm").is_dir() else None))
    program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin:/usr/libexec")
    assert program is not None, "the testbed installs mariadb-server"
    own = ["--no-defaults", "--user=root", f"--datadir={folder}/data"]
    quick = ["--innodb-flush-method=nosync", "--innodb-log-file-size=4M"]
    made = ["--auth-root-authentication-method=normal", "--skip-test-db"]
    subprocess.run(["mariadb-install-db", *own, *made, *quick], check=True, capture_output=True, timeout=200)
    server = subprocess.Popen(
        [program, *own, *quick, f"--socket={folder}/s", "--skip-networking", "--innodb-buffer-pool-size=8M"],
        stderr=subprocess.DEVNULL,
    )
    try:
        for _ in range(1200):
            if subprocess.run(["mariadb-admin", "-S", f"{folder}/s", "ping"], capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        rows = ",".join(map(str, ROWS))
        script = f"""CREATE DATABASE d; USE d;
            CREATE TABLE t (a BIGINT, b DECIMAL(8,2), kind VARCHAR(9), year SMALLINT UNSIGNED, day DATE);
            INSERT INTO t VALUES {rows};
            CREATE USER {USER}@localhost IDENTIFIED BY '{SECRET}'; GRANT SELECT ON d.* TO {USER}@localhost;"""
        subprocess.run(["mariadb", "-S", f"{folder}/s"], input=script, text=True, check=True, timeout=200)
        yield f"mysql+pymysql://{USER}:{QUOTED}@localhost/d?unix_socket={folder}/s"
    finally:
        server.kill()
        server.wait()
        shutil.rmtree(folder)


@pytest.fixture
def sqlite(tmp_path: Path) -> str:
    return f"sqlite:///{lite(tmp_path / 'rows.db', ROWS)}"


def lite(path: Path, rows: list[tuple[Any, ...]]) -> Path:
    """The rows as a table `t`; SQLite keeps no types but the values'."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE IF NOT EXISTS t (a, b, kind, year, day)")
    connection.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?)", rows)
    connection.commit()
    connection.close()
    return path


@pytest.fixture(params=["sqlite", "mariadb"])
def url(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """In DB_URL, as a user would have it."""
    found = str(request.getfixturevalue(request.param))
    monkeypatch.setenv("DB_URL", found)
    return found


def load(query: str = "SELECT a, b, kind, year FROM t", **options: Any) -> Data:
    known = {"url_env": "DB_URL", "query": query, "target": "kind", "split": Split(fraction=0.0)}
    return sql.load(sql.Options(**{**known, **options}))


@pytest.mark.usefixtures("url")
def test_sql_cells_are_those_of_the_database() -> None:
    data = load(features=("b", "a"))
    inputs, targets = everything(data.train)

    assert inputs.tolist() == [[row[1], row[0]] for row in ROWS]
    assert [data.train_card.classes[i] for i in targets] == [row[2] for row in ROWS]
    assert load().train_card.columns == ("a", "b", "year")


@pytest.mark.usefixtures("url")
def test_sql_numbers_can_be_predicted() -> None:
    data = load(task="regression", target="a", features=("b",), standardise_target=False)

    assert data.shape.task == "regression"
    assert everything(data.train)[1].tolist() == pytest.approx([row[0] for row in ROWS])


@pytest.mark.usefixtures("url")
def test_sql_order_of_the_answer_changes_nothing() -> None:
    queries = ["SELECT * FROM t", "SELECT * FROM t ORDER BY a DESC", "SELECT * FROM t ORDER BY kind, b"]

    cards = [load(query, split=Split(fraction=0.25, seed=3)) for query in queries]

    assert len({one.train_card.digest for one in cards}) == len({one.validation_card.digest for one in cards}) == 1
    rows = [[cell for row in everything(one.train)[0].tolist() for cell in row] for one in cards]
    assert rows[0] == rows[1] == rows[2]


@pytest.mark.usefixtures("url")
def test_sql_parts_go_by_class_column_and_filter() -> None:
    by_column = load(split=Split(by="column", column="year", validation=(2015, 2016)))
    by_filter = load(split=Split(by="filter", train="year < 2020", validation="year >= 2020 and kind != 'ox'"))

    assert (len(by_column.train), len(by_column.validation)) == (48, 12)
    assert len(by_filter.train) == sum(row[3] < 2020 for row in ROWS)
    assert len(by_filter.validation) == sum(row[3] >= 2020 and row[2] != "ox" for row in ROWS)


def test_sql_dates_are_times_to_a_split(mariadb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", mariadb)
    query = "SELECT a, day, kind FROM t"

    by_time = load(query, split=Split(by="time", column="day", before="2026-01-15"))
    by_filter = load(query, split=Split(by="filter", train="day < '2026-01-15'", validation="day >= '2026-01-15'"))

    wanted = [row[0] for row in ROWS if row[4] < "2026-01-15"]
    for data in (by_time, by_filter):
        assert sorted(everything(data.train)[0][:, 0].tolist()) == wanted


@pytest.mark.usefixtures("url")
def test_sql_signs_that_drivers_take_for_parameters_are_left_alone() -> None:
    query = "SELECT a, kind FROM t WHERE kind LIKE '%n%' AND kind <> ':kind' AND kind <> '%s' AND a % 2 = 1"

    assert [int(a) for (a,) in everything(load(query).train)[0]] == [i for i in range(60) if i % 6 == 1]


@pytest.mark.parametrize("count", [0, 1, 70_000])
def test_sql_many_rows_and_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """A column that begins with a long gap, and turns from whole numbers to others."""
    rows = [(i, None if i < 66_000 else i + 0.5, i % 2, 0, "") for i in range(count)]
    monkeypatch.setenv("DB_URL", f"sqlite:///{lite(tmp_path / 'many.db', rows)}")
    if not count:
        with pytest.raises(UserError, match="the query gives no rows"):
            load()
        return

    data = load(features=("a", "b") if count > 1 else ("a",), missing="zero")

    assert everything(data.train)[0][:, 0].tolist() == list(range(count))


@pytest.mark.parametrize(
    ("query", "options", "words"),
    [
        ("SELECT a, kind FROM nothing", {}, "the database refuses: .*nothing"),
        ("SELEC", {}, "the database refuses: "),
        ("SELECT a, kind, a FROM t", {}, "more than one column called 'a'"),
        ("SELECT a FROM t", {}, r"the query has no column 'kind'\n.*\n.*there is: 'a'"),
        ("SELECT a, kind AS kimd FROM t", {}, r"did you mean 'kimd'"),
        ("SELECT kind, day FROM t WHERE kind = 'none'", {}, "the query gives no rows"),
        (
            "SELECT NULL AS a, kind FROM t",
            {"features": ("a",)},
            r"the query has no value in row 1 of column 'a'\n.*mis",
        ),
        (
            "SELECT a, kind FROM t",
            {"split": Split(by="filter", validation="yaer > 1")},
            "the query has no column 'yaer'",
        ),
        ("CREATE TABLE IF NOT EXISTS u (a INT)", {}, "the query gives no rows|the database refuses"),
    ],
)
@pytest.mark.usefixtures("url")
def test_sql_mistake_is_said(query: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(UserError, match=words) as caught:
        load(query, **options)

    assert len(str(caught.value).splitlines()) == 3


def test_sql_values_without_a_common_type_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(1, 0.5, "x", 0, ""), ("one", 0.5, "y", 0, "")]
    monkeypatch.setenv("DB_URL", f"sqlite:///{lite(tmp_path / 'mixed.db', rows)}")

    with pytest.raises(UserError, match="values have no common type that can be sorted: a: "):
        load()


BAD = [
    (None, "the environment variable DB_URL is not set"),
    ("", "the environment variable DB_URL is not set"),
    (SECRET, "is no database URL that SQLAlchemy knows"),
    (f"nonsense://{USER}:{QUOTED}@h/d", "is no database URL that SQLAlchemy knows"),
    (f"mysql+pymysql://{USER}:{QUOTED}@127.0.0.1:1/d", "the database refuses: "),
    (f"mysql+cymysql://{USER}:{QUOTED}@h/d", "needs the Python package cymysql"),
    (f"mysql+pymysql://{USER}:x@h:{SECRET}/d", "is no database URL that SQLAlchemy knows"),
    (f"mysql+pymysql://{USER}:x@127.0.0.1:1/d?{SECRET}={SECRET}", "is no database URL that SQLAlchemy knows"),
    (f"sqlite:////nowhere/{USER}.db", "the database refuses: "),
]


@pytest.mark.parametrize(("value", "words"), BAD)
def test_sql_url_that_leads_nowhere_is_said_without_its_password(
    monkeypatch: pytest.MonkeyPatch, value: str | None, words: str
) -> None:
    monkeypatch.setenv("DB_URL", value or "")
    if value is None:
        monkeypatch.delenv("DB_URL")

    with pytest.raises(UserError, match=words) as caught:
        load()

    text = str(caught.value)
    assert len(text.splitlines()) == 3 and "DB_URL" in text
    assert not any(word in text for word in (SECRET, QUOTED, USER, "s3cret"))
    assert caught.value.__context__ is None or caught.value.__suppress_context__


def test_sql_wrong_password_is_said_without_it(mariadb: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", mariadb.replace(QUOTED, "wr0ng"))

    with pytest.raises(
        UserError, match=r"the database refuses: .*Access denied for user '\*\*\*'@'localhost'"
    ) as caught:
        load()

    assert "wr0ng" not in str(caught.value) and USER not in str(caught.value)


def test_sql_password_stands_in_no_file_of_a_run(
    member: Callable[..., Member], mariadb: str, tmp_path: Path, node: Path
) -> None:
    """Every file that a run on two ranks leaves, in its folder and on the node; the second attempt goes on."""
    options = {"url_env": "DB_URL", "query": "SELECT a, b, kind FROM t", "target": "kind", "standardise": True}
    run = member(
        ranks=2,
        data=Component(kind="sql", options=options),
        model=Component(kind="mlp"),
        train={"max_steps": 6, "batch_size": 12, "eval_every_steps": 6},
    )
    run.env = {"TMPDIR": str(node), "DB_URL": mariadb}

    assert run.run() == [0, 0], run.log()
    assert run.run() == [0, 0], run.log()

    card = run.lines("metrics.jsonl")[0]["dataset"]
    assert (card["source"], card["rows"]) == ("$DB_URL: SELECT a, b, kind FROM t", 54)
    for path in tmp_path.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert not any(word.encode() in content for word in (SECRET, QUOTED, "s3cret", USER)), path


def test_sql_rows_that_changed_end_a_member_and_are_those_of_before_on_its_node(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = lite(tmp_path / "rows.db", ROWS)
    monkeypatch.setenv("DB_URL", f"sqlite:///{path}")
    (tmp_path / "members" / "0").mkdir(parents=True)
    monkeypatch.setenv("FAIRLEAD_MEMBER_DIR", str(tmp_path / "members" / "0"))
    first = load().train_card
    lite(path, [(99, 0.0, "ox", 2030, "")])

    assert load().train_card == first  # the node has them still
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))  # as on another node
    with pytest.raises(UserError, match=r"the query gives other rows \(digest \w+\) than when this member began"):
        load()
    (tmp_path / "other" / "0").mkdir(parents=True)
    monkeypatch.setenv("FAIRLEAD_MEMBER_DIR", str(tmp_path / "other" / "0"))
    assert load().train_card.rows == first.rows + 1  # another run


def test_sql_nothing_is_changed_in_the_database(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", sqlite)
    with pytest.raises(UserError, match="gives no rows"):
        load("DELETE FROM t")

    assert len(load().train) == len(ROWS)


def test_sql_without_sqlalchemy_names_the_package(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", sqlite)
    monkeypatch.setitem(__import__("sys").modules, "sqlalchemy", None)

    with pytest.raises(UserError, match="needs the Python package SQLAlchemy"):
        load()


def test_sql_preview_says_what_load_gives(sqlite: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_URL", sqlite)
    options = sql.Options(url_env="DB_URL", query="SELECT a, kind FROM t", target="kind")

    assert sql.preview(options).form == sql.load(options).shape.form == "numbers"
    assert (
        "cannot do" in sql.preview(sql.Options(url_env="X", query="", target="k", split=Split(by="end"))).mistakes[0][0]
    )
    assert sqlalchemy.__version__ >= "2"
