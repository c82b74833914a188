"""Items and users: ids, tags, images and text; the forms of MovieLens and RecBole."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from warmstart.core.errors import DataError
from warmstart.data import Interactions, is_interactions, read_interactions

from .helpers import picture, write

EVENTS = "user_id,item_id,timestamp\nann,x,100\nbob,y,200\n"


def with_items(folder: Path, items: str, name: str = "items.csv", **options: Any) -> Interactions:
    write(folder / "interactions.csv", EVENTS)
    write(folder / name, items)
    return read_interactions(folder, **options)


def texts(data: Interactions) -> list[str]:
    return data.items["text"].to_list()


# --- items ---------------------------------------------------------------------------------------


def test_text_is_title_tags_further_columns_and_description(tmp_path: Path) -> None:
    items = (
        "item_id,Name,overview,genres,year,price,imdbId,poster_path,url,brand\n"
        'x,"Alpha. ","A long  story.\nIt ends.",Drama|War,1999,3.50,tt1,/a.jpg,http://a,Acme\n'
        "y,Beta,,,,,tt2,/b.jpg,http://b,\n"
    )
    data = with_items(tmp_path, items)
    assert texts(data) == [
        "Alpha. Drama, War. year: 1999. price: 3.5. brand: Acme. A long story. It ends",
        "Beta",
    ]
    assert data.items.columns == [
        "item_id", "title", "description", "tags", "image", "text",
        "year", "price", "imdbId", "poster_path", "url", "brand",
    ]  # fmt: skip
    assert data.items["year"].dtype == pl.Int64
    assert data.items["price"].dtype == pl.Float64
    assert data.items["description"].to_list() == ["A long story. It ends.", None]
    assert (
        "An item's text is made of Name, genres, year, price, brand, overview; not read as text: "
        "imdbId, poster_path, url." in data.notes
    )


def test_a_column_with_one_of_our_names_keeps_its_values(tmp_path: Path) -> None:
    data = with_items(tmp_path, "item_id,title,description,text\nx,A,one,more\ny,B,two,\n")
    assert data.items["text_original"].to_list() == ["more", None]
    assert texts(data) == ["A. text original: more. one", "B. two"]


@pytest.mark.parametrize(
    ("cells", "expected"),
    [
        (["War|Sci-Fi", "War"], [["War", "Sci-Fi"], ["War"]]),
        (["War; Sci-Fi;", ""], [["War", "Sci-Fi"], []]),
        (['"War, Sci-Fi, War"', "War"], [["War", "Sci-Fi"], ["War"]]),
        (["Science Fiction", "Drama"], [["Science Fiction"], ["Drama"]]),
        (['"[""War"", ""Sci-Fi""]"', "[]"], [["War", "Sci-Fi"], []]),
        (["\"['War', 'Sci-Fi']\"", "Drama"], [["War", "Sci-Fi"], ["Drama"]]),
        (['"[War, Sci-Fi]"', "Drama"], [["War", "Sci-Fi"], ["Drama"]]),
        (["(no genres listed)", "Drama"], [[], ["Drama"]]),
    ],
)
def test_tags_are_told_apart(tmp_path: Path, cells: list[str], expected: list[list[str]]) -> None:
    data = with_items(tmp_path, f"item_id,genres\nx,{cells[0]}\ny,{cells[1]}\n")
    assert data.items["tags"].to_list() == expected


def test_tags_between_spaces_where_words_recur(tmp_path: Path) -> None:
    words = ["Action", "Comedy", "Drama", "War"]
    pairs = [f"{a} {b}" for a in words for b in words]
    rows = [f"i{n},{pair}" for n, pair in enumerate(pairs)]
    data = with_items(tmp_path, "item_id,tags\n" + "\n".join(rows) + "\nx,War\ny,Drama\n")
    assert data.items["tags"].to_list()[1] == ["Action", "Comedy"]
    assert data.items["tags"].to_list()[0] == ["Action"]
    assert any("separated by spaces" in line for line in data.notes)


def test_tables_with_types_of_their_own(tmp_path: Path) -> None:
    rows = [
        {"item_id": "x", "title": "A", "tags": ["War", None], "extra": {"a": 1}, "links": ["u"]},
        {"item_id": "y", "title": None, "tags": None, "extra": None, "links": []},
    ]
    write(tmp_path / "interactions.csv", EVENTS)
    write(tmp_path / "items.jsonl", "\n".join(map(json.dumps, rows)))
    data = read_interactions(tmp_path)
    assert data.items["tags"].to_list() == [["War"], []]
    assert data.items["links"].to_list() == [["u"], []]
    assert texts(data) == ['A. War. extra: {"a": 1}', ""]
    assert data.items["title"].to_list() == ["A", None]


def test_ids_of_any_type_meet(tmp_path: Path) -> None:
    """Integers beside gaps become floats in many a table; both sides lose the fraction."""
    write(tmp_path / "interactions.csv", "user_id,item_id,timestamp\n1.0,7.0,1\n2.0,8.0,2\n")
    pl.DataFrame({"item_id": [7, 8, 9], "title": ["A", "B", "C"]}).write_parquet(
        tmp_path / "items.parquet"
    )
    pl.DataFrame({"user_id": [1.0, 2.0], "age": [30.0, None]}).write_parquet(
        tmp_path / "users.parquet"
    )
    data = read_interactions(tmp_path)
    assert data.user_ids == ("1", "2")
    assert data.item_ids == ("7", "8", "9")
    assert data.users is not None
    assert data.users.rows() == [("1", 30), ("2", None)]
    assert any('written as "12.0" and read as "12"' in line for line in data.notes)


@pytest.mark.parametrize(
    ("mine", "theirs", "hint"),
    [("007", "7", "It has '7': leading zeros differ"), ("7", "007", "It has '007': leading")],
)
def test_leading_zeros_are_kept_and_told(tmp_path: Path, mine: str, theirs: str, hint: str) -> None:
    events = f"user_id,item_id,timestamp\na,{mine},1\nb,x,2\n"
    write(tmp_path / "interactions.csv", events)
    write(tmp_path / "items.csv", f"item_id\n{theirs}\nx\n")
    with pytest.raises(DataError, match=f"line 2: the item id '{mine}' is not in.*{hint}"):
        read_interactions(tmp_path)


def test_huge_whole_numbers_stay_as_they_are(tmp_path: Path) -> None:
    big = [2**64 - 1, 2**64 - 2]
    pl.DataFrame({"user_id": big, "item_id": [2**53, 2**53 + 1], "timestamp": [1, 2]}).cast(
        {"user_id": pl.UInt64}
    ).write_parquet(tmp_path / "a.parquet")
    data = read_interactions(tmp_path / "a.parquet")
    assert data.user_ids == tuple(map(str, big))
    assert data.item_ids == (str(2**53), str(2**53 + 1))
    text = f"user_id,item_id,timestamp\n{10**40},x,1\n{10**40 + 1},y,2\n"
    assert read_interactions(write(tmp_path / "b.csv", text)).user_ids[1] == str(10**40 + 1)


@pytest.mark.parametrize(
    ("items", "line", "reason"),
    [
        ("item_id\nx\ny\nx\n", 4, "the item id 'x' stands at line 2 already"),
        ("item_id\nx\ny\n x \n", 4, "the item id 'x' stands at line 2 already"),
        ("item_id,title\nx,A\ny,B\n,C\n", 4, "the item id (column 'item_id') is empty"),
        ("item_id,title\nx,A\ny,B\nz,C,D\n", 4, "the row has 3 fields, the header has 2"),
        ("item_id,title\nx,A\ny,B\nq\x07,C\n", 4, "holds a control character"),
    ],
)
def test_bad_items_are_an_error_or_a_counted_skip(
    tmp_path: Path, items: str, line: int, reason: str
) -> None:
    with pytest.raises(DataError) as caught:
        with_items(tmp_path, items)
    assert str(caught.value).startswith(f"{tmp_path / 'items.csv'}, line {line}: ")
    assert reason in str(caught.value)
    data = with_items(tmp_path, items, skip_bad=True)
    assert data.item_ids == ("x", "y")
    assert [(s.row, reason in s.reason) for s in data.skipped] == [(line, True)]
    assert data.n_skipped == 1
    assert any(note.startswith("Left out 1 bad row of ") for note in data.notes)


def test_a_users_table_with_repeated_ids(tmp_path: Path) -> None:
    write(tmp_path / "interactions.csv", EVENTS)
    write(tmp_path / "users.csv", "user_id,age\nann,1\nbob,2\nann,3\n")
    with pytest.raises(DataError, match=r"users\.csv, line 4: the user id 'ann' stands at line 2"):
        read_interactions(tmp_path)
    data = read_interactions(tmp_path, skip_bad=True)
    assert data.users is not None
    assert data.users.rows() == [("ann", 1), ("bob", 2)]


def test_tables_without_ids(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"items\.csv has no column of item ids .*Available: title"):
        with_items(tmp_path, "title\nA\n")


def test_the_items_id_may_have_the_interactions_name(tmp_path: Path) -> None:
    write(tmp_path / "interactions.csv", EVENTS.replace("item_id", "film"))
    write(tmp_path / "items.csv", "item_id,film\n1,x\n2,y\n")
    data = read_interactions(tmp_path, item="film")
    assert data.item_ids == ("x", "y")


# --- images --------------------------------------------------------------------------------------


def test_images_are_paths_inside_the_folder(tmp_path: Path) -> None:
    home = tmp_path / "data"
    picture(home / "pics" / "a b.png")
    data = with_items(home, f"item_id,image\nx,pics/a b.png\ny,{home}/pics/../pics/a b.png\n")
    assert data.items["image"].to_list() == ["pics/a b.png", "pics/a b.png"]
    assert data.image_files() == [home / "pics/a b.png"] * 2
    assert texts(data) == ["", ""]


@pytest.mark.parametrize(
    ("image", "reason"),
    [
        ("../secret.png", "lies outside the folder"),
        ("pics/../../secret.png", "lies outside the folder"),
        ("/etc/hostname", "lies outside the folder"),
        ("link.png", "lies outside the folder"),
        ("nowhere.png", "does not exist"),
        ("pics", "does not exist"),
        ("a\0b.png", "holds a NUL"),
        ("n" * 5000, "cannot be read"),
    ],
)
def test_images_outside_are_refused(tmp_path: Path, image: str, reason: str) -> None:
    home = tmp_path / "data"
    picture(tmp_path / "secret.png")
    picture(home / "pics" / "a.png")
    (home / "link.png").symlink_to(tmp_path / "secret.png")
    items = f"item_id,image\nx,pics/a.png\ny,{image}\n"
    with pytest.raises(DataError, match=rf"items\.csv, line 3: .*{reason}"):
        with_items(home, items)
    data = with_items(home, items, skip_bad=True)
    assert data.items["image"].to_list() == ["pics/a.png", None]
    assert data.item_ids == ("x", "y")  # the item stays, without its image


def test_addresses_of_images_are_not_read(tmp_path: Path) -> None:
    data = with_items(tmp_path, "item_id,image\nx,https://a.example/x.png\ny,\n")
    assert data.items["image"].to_list() == [None, None]
    assert "1 images are addresses; only files are read." in data.notes


# --- layouts -------------------------------------------------------------------------------------


def test_a_file_alone_knows_items_by_id(tmp_path: Path) -> None:
    data = read_interactions(write(tmp_path / "any.csv", EVENTS))
    assert data.items.rows() == [("x", None, None, [], None, ""), ("y", None, None, [], None, "")]
    assert data.items.schema["tags"] == pl.List(pl.String)
    assert "known by their ids alone" in data.notes[0]
    assert data.users is None


def movielens_100k(folder: Path) -> Path:
    write(folder / "u.data", "1\t2\t3\t881250949\n2\t1\t5\t881250950\n1\t1\t4\t881250951\n")
    flags = ["0"] * 19
    flags[5] = flags[14] = "1"
    items = (
        f"1|Les Misérables (1995)|01-Jan-1995||http://imdb|{'|'.join(flags)}\n"
        f"2|Quiz Show (1994)|||{'|0' * 19}\n"
    )
    write(folder / "u.item", items.encode("latin-1"))
    write(folder / "u.user", "1|24|M|technician|85711\n2|53|F|other|01002\n")
    return folder


def test_movielens_100k(tmp_path: Path) -> None:
    source = movielens_100k(tmp_path)
    assert is_interactions(source)
    data = read_interactions(source)
    assert data.time_N.tolist() == [881250949, 881250950, 881250951]
    assert data.rating_N is not None
    assert data.rating_N.tolist() == [3, 5, 4]
    assert data.items["title"].to_list() == ["Les Misérables (1995)", "Quiz Show (1994)"]
    assert data.items["tags"].to_list() == [["Comedy", "Romance"], []]
    assert texts(data)[0] == "Les Misérables (1995). Comedy, Romance. release date: 01-Jan-1995"
    assert data.users is not None
    assert data.users.rows() == [("1", 24, "M", "technician", "85711"),
                                 ("2", 53, "F", "other", "01002")]  # fmt: skip
    (source / "u.user").unlink()
    assert read_interactions(source).users is None


@pytest.mark.parametrize("encoding", ["latin-1", "utf-8"])
def test_movielens_1m(tmp_path: Path, encoding: str) -> None:
    write(tmp_path / "ratings.dat", "1::10::5::978300760\n2::20::3::978300750\n")
    movies = "10::Léon: The Professional (1994)::Crime|Drama\n20::Bambi (1942)::Animation\n"
    write(tmp_path / "movies.dat", movies.encode(encoding))
    write(tmp_path / "users.dat", "1::F::1::10::48067\n2::M::56::16::70072\n")
    assert is_interactions(tmp_path)
    data = read_interactions(tmp_path)
    assert data.user_ids == ("1", "2")
    assert data.time_N.tolist() == [978300750, 978300760]
    assert data.items["title"][0] == "Léon: The Professional (1994)"
    assert data.items["tags"].to_list() == [["Crime", "Drama"], ["Animation"]]
    assert data.users is not None
    assert data.users["gender"].to_list() == ["F", "M"]
    write(tmp_path / "ratings.dat", "1::10::5::978300760\n2::20::3\n")
    with pytest.raises(DataError, match=r"ratings\.dat, line 2: the row has 3 fields, not 4"):
        read_interactions(tmp_path)


def movielens_latest(folder: Path) -> Path:
    write(folder / "ratings.csv", "userId,movieId,rating,timestamp\n1,1,4.0,100\n2,3,0.5,50\n")
    write(
        folder / "movies.csv",
        'movieId,title,genres\n1,Toy Story (1995),Comedy|Fantasy\n3,"Men, Old",Romance\n'
        "4,None (2000),(no genres listed)\n",
    )
    write(folder / "links.csv", "movieId,imdbId,tmdbId\n1,0114709,862\n")
    write(
        folder / "tags.csv",
        "userId,movieId,tag,timestamp\n1,1,Fun,9\n2,1,pixar,9\n2,1,fun ,10\n2,3,old,11\n",
    )
    return folder


def test_movielens_latest(tmp_path: Path) -> None:
    source = movielens_latest(tmp_path)
    assert is_interactions(source)
    data = read_interactions(source)
    assert (len(data), data.n_users, data.n_items) == (2, 2, 3)
    assert texts(data) == ["Toy Story (1995). Comedy, Fantasy", "Men, Old. Romance", "None (2000)"]
    assert data.items["user_tags"].to_list() == [["fun", "pixar"], ["old"], []]
    assert any("they are dated" in line for line in data.notes)


def test_overviews_become_descriptions_where_the_columns_fit(tmp_path: Path) -> None:
    source = movielens_latest(tmp_path)
    pl.DataFrame({"tmdbId": [862], "overview": ["no movieId here"]}).write_parquet(
        source / "another.parquet"
    )
    pl.DataFrame({"movieId": [1, 1], "overview": ["one", "two"]}).write_parquet(
        source / "chatter.parquet"
    )
    write(source / "comments.csv", "movieId,userId,text\n1,1,my own view\n")
    pl.DataFrame(
        {
            "movieId": [3, 1], "title": ["other", "titles"], "overview": [None, "Toys live."],
            "keywords": ["age|men", "toy|boy"], "imdb_id": ["tt3", "tt1"],
        }
    ).write_parquet(source / "movies_with_overview.parquet")  # fmt: skip
    data = read_interactions(source)
    assert data.items["description"].to_list() == ["Toys live.", None, None]
    assert texts(data)[0] == "Toy Story (1995). Comedy, Fantasy. keywords: toy, boy. Toys live"
    assert data.items["imdb_id"].to_list() == ["tt1", "tt3", None]
    assert "movies_with_overview.parquet gives 1 of 3 items a description (column 'overview')." in (
        data.notes
    )


def recbole(folder: Path) -> Path:
    write(
        folder / "ml.inter",
        "user_id:token\titem_id:token\trating:float\ttimestamp:float\n"
        '196\t1\t3\t881250949\n1"86\t2\t3.5\t891717742\n',
    )
    write(
        folder / "ml.item",
        "item_id:token\tmovie_title:token_seq\trelease_year:token\tclass:token_seq\tv:float_seq\n"
        "1\tToy \"Story\t1995\tAnimation Children's Comedy\t0.5 1\n"
        "2\tGoldenEye\t1995\tAction\t1 2\n",
    )
    write(folder / "ml.user", "user_id:token\tage:token\n196\t24\n")
    write(folder / "ml.kg", "head:token\ttail:token\n1\t2\n")
    return folder


def test_recbole(tmp_path: Path) -> None:
    source = recbole(tmp_path)
    assert is_interactions(source)
    assert is_interactions(source / "ml.inter")
    data = read_interactions(source)
    assert data.user_ids == ("196", '1"86')
    assert data.items["title"].to_list() == ['Toy "Story', "GoldenEye"]
    assert data.items["tags"].to_list() == [["Animation", "Children's", "Comedy"], ["Action"]]
    assert texts(data)[1] == "GoldenEye. Action. release year: 1995"
    assert "v" not in data.items.columns
    assert data.users is not None
    assert data.users.rows() == [("196", 24), ('1"86', None)]
    alone = read_interactions(source / "ml.inter")
    assert alone.item_ids == ("1", "2")
    write(source / "two.inter", "a:token\n")
    with pytest.raises(DataError, match=r"several files of interactions: ml\.inter, two\.inter"):
        read_interactions(source)
    assert not is_interactions(source)


def test_bad_rows_of_atomic_tables(tmp_path: Path) -> None:
    source = recbole(tmp_path)
    path = source / "ml.item"
    path.write_bytes(path.read_bytes() + b"3\tShort\n\n4\t\xff\t1\ta\tb\n")
    with pytest.raises(DataError, match=r"ml\.item, line 4: the row has 2 fields, not 5"):
        read_interactions(source)
    data = read_interactions(source, skip_bad=True)
    assert [s.row for s in data.skipped] == [4, 6]


def test_the_folder_of_the_sample(tmp_path: Path) -> None:
    """Plain names, genres between spaces, a manifest beside them."""
    write(tmp_path / "interactions.csv", "user_id,item_id,rating,timestamp\n196,1,3,881250949\n"
          "186,2,3,891717742\n")  # fmt: skip
    write(tmp_path / "items.csv", "item_id,title,year,genres\n1,Toy Story,1995,Animation\n"
          "2,GoldenEye,1995,Action\n")  # fmt: skip
    write(tmp_path / "users.csv", "user_id,age,gender,occupation,zip_code\n196,24,M,x,85711\n"
          "186,53,F,y,94043\n")  # fmt: skip
    write(tmp_path / "manifest.json", '{"files": []}')
    write(tmp_path / "README.txt", "about")
    assert is_interactions(tmp_path)
    data = read_interactions(tmp_path)
    assert texts(data) == ["Toy Story. Animation. year: 1995", "GoldenEye. Action. year: 1995"]
    assert data.users is not None
    assert data.users.columns == ["user_id", "age", "gender", "occupation", "zip_code"]


def test_folders_that_hold_no_interactions(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", "text,label\na,b\n")
    assert not is_interactions(tmp_path)
    with pytest.raises(DataError, match=r"has no file of interactions .*it holds train\.csv"):
        read_interactions(tmp_path)
    write(tmp_path / "ratings.csv", "text,label\na,b\n")  # a name alone is not enough
    assert not is_interactions(tmp_path)
    write(tmp_path / "interactions.csv", "a,b\n1,2\n")  # this name is: the error tells what lacks
    assert is_interactions(tmp_path)
    write(tmp_path / "interactions.parquet", "x")
    with pytest.raises(DataError, match=r"both interactions\.csv and interactions\.parquet"):
        read_interactions(tmp_path)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        ("a.csv", "user_id,item_id,timestamp\n", True),
        ("a.csv", "user_id,item_id,timestamp,review\n", True),
        ("a.csv", "user_id,product_id,time,text,label\n", False),
        ("a.csv", "user_id,item_id,rating\n", False),
        ("a.csv", "text,label\n", False),
        ("a.jsonl", "{}", False),
        ("a.csv", "", False),
        ("a.parquet", "no parquet", False),
    ],
)
def test_is_interactions_looks_at_names(
    tmp_path: Path, name: str, text: str, expected: bool
) -> None:
    assert is_interactions(write(tmp_path / name, text)) is expected
    assert not is_interactions(tmp_path / "nowhere")


def test_columns_that_are_said_make_interactions(tmp_path: Path) -> None:
    reviews = write(tmp_path / "a.csv", "who,product_id,time,text,label\n")
    assert not is_interactions(reviews)
    assert is_interactions(reviews, user="who")
    assert not is_interactions(write(tmp_path / "b.csv", "text,label,site\n"), user="site")
    assert not is_interactions(tmp_path / "nowhere", user="who", item="what", time="at")
    write(tmp_path / "shop/clicks.csv", "who,what,at_\n")
    assert is_interactions(tmp_path / "shop", user="who", item="what", time="at_")
    assert not is_interactions(tmp_path / "shop")
