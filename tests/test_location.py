import pytest

from pai_runner.errors import LocationError
from pai_runner.location import Location, parse_list, plain_path
from pai_runner.secret import Secret


@pytest.mark.parametrize(
    ("text", "protocol", "prefix"),
    [
        ("./out", "file", "./out"),
        ("/data/a b/", "file", "/data/a b/"),
        ("/data/what?x=1", "file", "/data/what?x=1"),
        ("file:///data/x.py", "file", "/data/x.py"),
        ("file://path/to/x.py", "file", "path/to/x.py"),
        ("s3://b/dir/", "s3", "s3://b/dir/"),
        ("S3://b/Dir", "s3", "s3://b/Dir"),
        ("s3://b/odd?name/100%/#1/中文", "s3", "s3://b/odd?name/100%/#1/中文"),
        ("memory://a/b", "memory", "memory://a/b"),
        ("file:///data/odd?x=1", "file", "/data/odd?x=1"),
        ("https://h/train.py?version=3", "https", "https://h/train.py?version=3"),
    ],
)
def test_prefix(text: str, protocol: str, prefix: str) -> None:
    location = Location.parse(text)
    assert (location.protocol, location.prefix, location.options) == (protocol, prefix, ())


def test_the_query_is_taken_off_and_its_secrets_are_masked() -> None:
    text = "s3://b/dir/?endpoint_url=http%3A%2F%2F127.0.0.1%3A5000&region=x&key=AKIDEXAMPLE&secret=s/e+c"
    location = Location.parse(text)
    assert location.prefix == "s3://b/dir/"
    assert dict(location.options) == {
        "endpoint_url": "http://127.0.0.1:5000",
        "region": "x",
        "key": Secret("AKIDEXAMPLE"),
        "secret": Secret("s/e+c"),
    }
    shown = str(location) + repr(location)
    assert "AKIDEXAMPLE" not in shown
    assert "s/e+c" not in shown
    assert "http://127.0.0.1:5000" in shown


@pytest.mark.parametrize(
    "text",
    [
        "oss://b/d/?host=h.aliyuncs.com&role_arn=acs:ram::123456789:role/odps",
        "oss://b/d/?role_arn=acs:ram::123456789:role/odps&host=h.aliyuncs.com",
    ],
)
def test_an_oss_location_has_its_role_in_either_order(text: str) -> None:
    location = Location.parse(text)
    assert location.prefix == "oss://b/d/"
    assert dict(location.options)["role_arn"] == "acs:ram::123456789:role/odps"
    assert "123456789" not in str(location)


ROLE = "acs:ram::123456789:role/odps"


@pytest.mark.parametrize(
    "text",
    [
        f"oss://b/d/?host=h.aliyuncs.com&role_arn={ROLE}",
        f"oss://b/d/?role_arn={ROLE}&host=h.aliyuncs.com",
        f"oss://b.h.aliyuncs.com/d/?role_arn={ROLE}",
        f"oss://b?host=h.aliyuncs.com&role_arn={ROLE}/d/",
        f"oss://b/d/?host=https://H.aliyuncs.com/&role_arn={ROLE}",
        f"oss://b/?role_arn={ROLE}&host=h.aliyuncs.com/d/",
    ],
)
def test_ways_to_write_one_oss_location_are_equal(text: str) -> None:
    plain = Location.parse("oss://b/d/").with_oss_defaults("h.aliyuncs.com", ROLE)
    assert Location.parse(text) == plain
    assert hash(Location.parse(text)) == hash(plain)
    assert dict(plain.options) == {"host": "h.aliyuncs.com", "role_arn": ROLE}


@pytest.mark.parametrize(
    "text",
    [
        "oss://b/d/?id=AKIDEXAMPLE&key=hidden-value&host=h.aliyuncs.com",
        "oss://b?id=AKIDEXAMPLE&key=hidden-value&host=h.aliyuncs.com/d/",
        "oss://b?access_key_id=AKIDEXAMPLE&access_key_secret=hidden-value&host=h.aliyuncs.com/d/",
        "oss://b\x01id=AKIDEXAMPLE\x02key=hidden-value\x02host=h.aliyuncs.com/d/",
        "oss://b\\x01id=AKIDEXAMPLE\\x02key=hidden-value\\x02host=h.aliyuncs.com/d/",
        "oss://bx01id=AKIDEXAMPLEx02key=hidden-valuex02host=h.aliyuncs.com/d/",
    ],
)
def test_ways_to_write_keys_into_an_oss_location_are_equal(text: str) -> None:
    location = Location.parse(text)
    assert location.prefix == "oss://b/d/"
    assert location.plain_options() == {
        "host": "h.aliyuncs.com",
        "access_key_id": "AKIDEXAMPLE",
        "access_key_secret": "hidden-value",
    }
    shown = f"{location} {location!r}"
    assert "AKIDEXAMPLE" not in shown
    assert "hidden-value" not in shown
    assert "h.aliyuncs.com" in shown


@pytest.mark.parametrize(
    ("text", "prefix"),
    [
        (f"oss://b/d/?host=h.aliyuncs.com&role_arn={ROLE}/model.ckpt", "oss://b/d/model.ckpt"),
        (f"oss://b/d?role_arn={ROLE}&host=https://h.aliyuncs.com/e/f", "oss://b/d/e/f"),
        ("oss://b/?host=h.aliyuncs.com/", "oss://b/"),
        ("oss://b/d/?host=h&id=AKIDEXAMPLE&key=hidden-value/m.ckpt", "oss://b/d/m.ckpt"),
        ("oss://b/d/?host=h&key=hidden-value&id=AKIDEXAMPLE/m.ckpt", "oss://b/d/m.ckpt"),
        ("oss://b/d/?host=h&role_arn=acs:ram::1:role%2Fr/m.ckpt", "oss://b/d/m.ckpt"),
        ("oss://b/d/?host=h&mount=stage/m.ckpt", "oss://b/d/m.ckpt"),
        ("oss://b\x01host=h\x02id=AKIDEXAMPLE\x02key=hidden-value/d/m.ckpt", "oss://b/d/m.ckpt"),
    ],
)
def test_a_path_joined_to_an_oss_query_belongs_to_the_key(text: str, prefix: str) -> None:
    assert Location.parse(text).prefix == prefix


@pytest.mark.parametrize(
    ("path", "plain"),
    [
        (f"oss://b/d/?host=h.aliyuncs.com&role_arn={ROLE}/model.ckpt-?", "oss://b/d/model.ckpt-?"),
        ("oss://b\\x01id=AKIDEXAMPLE\\x02key=hidden-value\\x02host=h/d/*.txt", "oss://b/d/*.txt"),
        ("oss://b.oss-cn-x.aliyuncs.com/d/x", "oss://b/d/x"),
        ("oss://b/d/what?x=1.txt", "oss://b/d/what?x=1.txt"),
        ("oss://b/runs/max01key=5/x", "oss://b/runs/max01key=5/x"),
        ("oss://b/d/100%25 #", "oss://b/d/100%25 #"),
        ("s3://b/d/?region=x", "s3://b/d/?region=x"),
    ],
)
def test_a_scripts_path_may_carry_a_location(path: str, plain: str) -> None:
    assert plain_path(path) == plain


def test_a_commands_role_and_host_are_for_oss_locations_that_name_none() -> None:
    own = "oss://b/?host=own.aliyuncs.com&id=AKIDEXAMPLE&key=hidden-value"
    filled = Location.parse(own).with_oss_defaults("other.aliyuncs.com", ROLE)
    assert filled == Location.parse(own)
    role = Location.parse("oss://b.own.aliyuncs.com/?role_arn=acs:ram::1:role/own")
    assert role.with_oss_defaults("other.aliyuncs.com", ROLE) == role
    assert Location.parse("s3://b/").with_oss_defaults("h", ROLE).options == ()


def test_a_location_says_how_it_is_mounted() -> None:
    location = Location.parse("s3://b/d/?mount=stage&region=x")
    assert location.mount == "stage"
    assert location.plain_options() == {"region": "x"}
    assert location.directory().mount == "stage"
    assert "mount=stage" in str(location)
    assert Location.parse("memory://b/d?mount=stream").mount == "stream"
    assert Location.parse("oss://b/?mount=stage").prefix == "oss://b/"


def test_a_location_becomes_a_directory_once() -> None:
    location = Location.parse("s3://b/dir?region=x")
    assert location.directory().prefix == "s3://b/dir/"
    assert location.directory().directory() == location.directory()
    assert location.directory().options == location.options


def test_a_list_is_split_at_commas() -> None:
    assert [str(part) for part in parse_list("s3://a/, ./b ,")] == ["s3://a/", "./b"]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "empty"),
        ("s3://", "no bucket"),
        ("oss:///d", "no bucket"),
        ("oss//b/d", "write oss://b/d"),
        ("oss:/b/d", "write oss://b/d"),
        ("s3://b/?regoin=x", "did you mean `region`"),
        ("oss://b/?mount=copy", "one of stream, stage"),
        ("oss://b/?hots=h", "did you mean `host`"),
        ("ftp://user:hiddenpassword@h/d/", "password"),
    ],
)
def test_what_is_not_a_location_is_refused(text: str, says: str) -> None:
    with pytest.raises(LocationError) as caught:
        Location.parse(text)
    assert says in f"{caught.value} {caught.value.hint}"


def test_a_refusal_shows_no_secret() -> None:
    with pytest.raises(LocationError) as caught:
        Location.parse("oss:/b/d/?id=AKIDEXAMPLE&key=hiddenvalue")
    assert "hiddenvalue" not in f"{caught.value} {caught.value.hint}"


def test_a_refusal_of_the_other_form_shows_no_secret() -> None:
    with pytest.raises(LocationError) as caught:
        Location.parse("oss:/b\\x01id=AKIDEXAMPLE\\x02key=hiddenvalue\\x02host=h/d")
    shown = f"{caught.value} {caught.value.hint}"
    assert "hiddenvalue" not in shown
    assert "AKIDEXAMPLE" not in shown
    assert "write oss://b" in shown


@pytest.mark.parametrize("text", ["s3/data", "oss/x", "file.py", "memory", "gs_data/x"])
def test_a_folder_named_like_a_protocol_is_a_folder(text: str) -> None:
    assert Location.parse(text) == Location("file", text)
