"""The key of a call: one for equal arguments however they are given, and short enough for every store."""

from __future__ import annotations

import inspect
import re
import typing
from collections.abc import Callable
from typing import Any, Optional

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field, field_validator

from celery_locks.errors import LockKeyError
from celery_locks.keys.maker import KeyMaker
from celery_locks.keys.text import check_key
from tests.core import values as v
from tests.core.values import folded, sent
from tests.support.examples import examples

Key = Callable[..., str]


def maker(function: Callable[..., Any], key: str | Callable[..., str] | None = None) -> Key:
    made = KeyMaker(key, inspect.signature(function), "proj.task", typing.get_type_hints(function))
    return lambda *args, **kwargs: made.key(args, kwargs)


def plain(shop_id: Any, full: Any = False, *, page: Any = 1) -> None: ...


def wild(first: Any, /, second: Any = 2, *rest: Any, third: Any = 3, **more: Any) -> None: ...


# All ways to give the same arguments --------------------------------------------------------------------------------


def test_the_default_key_is_readable() -> None:
    assert maker(plain)(7) == "proj.task(shop_id=7,full=false,page=1)"
    assert maker(wild)(7) == "proj.task(first=7,second=2,third=3)"
    assert maker(wild)(7, 8, 9, b=1, a="x") == 'proj.task(first=7,second=8,rest=[9],third=3,more={"a":"x","b":1})'
    assert maker(lambda: None)() == "proj.task()"


def same_calls(shop_id: Any, full: Any, page: Any) -> list[tuple[tuple[Any, ...], dict[str, Any]]]:
    calls: list[tuple[tuple[Any, ...], dict[str, Any]]] = [
        ((shop_id, full), {"page": page}),
        ((shop_id,), {"page": page, "full": full}),
        ((), {"page": page, "full": full, "shop_id": shop_id}),
        ((), {"shop_id": shop_id, "full": full, "page": page}),
    ]
    if folded(full) == folded(False):
        calls.append(((shop_id,), {"page": page}))
    if folded(page) == folded(1):
        calls.append(((shop_id, full), {}))
    return calls


FEW = st.sampled_from([False, 0, 1, True, 1.0, "1", None, (1,), [1], {1: 2}, {"1": 2}])


@examples(100)
@given(st.tuples(FEW, FEW, FEW), st.tuples(FEW, FEW, FEW), st.data())
def test_promise_14_the_same_key_exactly_for_equal_arguments(
    one: tuple[Any, ...], other: tuple[Any, ...], data: st.DataObject
) -> None:
    key = maker(plain)
    args, kwargs = data.draw(st.sampled_from(same_calls(*one)))
    other_args, other_kwargs = data.draw(st.sampled_from(same_calls(*other)))
    assert (key(*args, **kwargs) == key(*other_args, **other_kwargs)) == (folded(one) == folded(other))


@examples(50)
@given(v.ANYTHING, v.ANYTHING, st.lists(v.ANYTHING, max_size=2), st.dictionaries(st.sampled_from("xyz"), v.ANYTHING))
def test_promise_14_the_same_key_after_the_broker(
    first: Any, second: Any, rest: list[Any], more: dict[str, Any]
) -> None:
    key = maker(wild)
    args, kwargs = sent([[first, second, *rest], more])
    assert key(*args, **kwargs) == key(first, second, *rest, **more)


@examples(100)
@given(st.lists(FEW, min_size=1, max_size=4), st.lists(FEW, min_size=1, max_size=4))
def test_promise_14_variadic_arguments_are_distinguished(one: list[Any], other: list[Any]) -> None:
    key = maker(wild)
    padded = [(*args, 2)[:2] + tuple(args[2:]) for args in (one, other)]
    assert (key(*one) == key(*other)) == (folded(padded[0]) == folded(padded[1]))


def test_promise_14_an_extra_keyword_is_no_parameter() -> None:
    key = maker(wild)
    assert len({key(1), key(1, first=1), key(1, 2, 1), key(1, rest=[1]), key(1, more={"first": 1})}) == 5


def test_promise_14_no_text_forges_another_argument() -> None:
    key = maker(plain)
    assert key('7,full=false,page=1)"') != key(7)
    assert key('a",full="b') != key("a", "b")


@pytest.mark.parametrize(
    ("args", "kwargs"),
    [((), {}), ((1, 2, 3), {}), ((1,), {"shop_id": 1}), ((1,), {"shop": 1}), ((), {"full": 1}), ((1,), {"pag": 1})],
)
@pytest.mark.parametrize("key", [None, "shop:<shop_id>", plain])
def test_a_call_that_does_not_fit_raises_what_the_call_would(args: Any, kwargs: Any, key: Any) -> None:
    with pytest.raises(TypeError):
        plain(*args, **kwargs)
    with pytest.raises(TypeError):
        maker(plain, key)(*args, **kwargs)


def test_the_name_may_come_with_the_call() -> None:
    made = KeyMaker(None, inspect.signature(plain))
    assert made.key((7,), {}, "other").startswith("other(")
    with pytest.raises(LockKeyError, match="name"):
        made.key((7,), {})


@pytest.mark.parametrize(
    ("value", "part"),
    [
        (object(), "shop_id is of type builtins.object"),
        (v.Order(1, [0, 1, object()]), r"shop_id\.lines\[2\] is of type builtins.object"),
        ({1: "a", "1": "b"}, "shop_id has two keys"),
    ],
)
def test_promise_15_an_odd_argument_is_named(value: Any, part: str) -> None:
    with pytest.raises(LockKeyError, match=f"^proj.task: the argument {part}.*key= template"):
        maker(plain)(value)


def test_promise_15_odd_extra_arguments_are_named() -> None:
    with pytest.raises(LockKeyError, match=r"the argument rest\[0\] "):
        maker(wild)(1, 2, 1j)
    with pytest.raises(LockKeyError, match=r"the argument more\[x\] "):
        maker(wild)(1, x=1j)


def test_an_argument_without_a_truth_value() -> None:
    class Array:
        def __bool__(self) -> bool:
            raise ValueError

    with pytest.raises(LockKeyError, match="Array"):
        maker(plain)(Array())


# Templates ----------------------------------------------------------------------------------------------------------


def test_a_template_takes_defaults_and_extra_arguments() -> None:
    assert maker(plain, "<shop_id>:<full>:<page>")(7, page=2) == "7:False:2"
    assert maker(wild, "<first>:<rest[0]>:<extra>")(7, 8, 9, extra="e") == "7:9:e"
    assert maker(wild, "<more[extra]>:<rest>")(7, extra="e") == "e:%5B%5D"


def test_promise_15_a_template_that_names_no_argument_is_refused_when_defined() -> None:
    with pytest.raises(
        LockKeyError, match=r"'x:<shopid>' .*proj\.task has no argument shopid; did you mean <shop_id>\?"
    ):
        maker(plain, "x:<shopid>")
    with pytest.raises(LockKeyError, match="it has shop_id, full, page"):
        maker(plain, "x:<zzz.id>")


def test_an_extra_argument_that_the_call_lacks() -> None:
    with pytest.raises(LockKeyError, match="<extra> makes no key"):
        maker(wild, "<extra>")(7)


def test_a_template_that_comes_out_empty() -> None:
    with pytest.raises(LockKeyError, match="<shop_id> makes no key: it is empty"):
        maker(plain, "<shop_id>")("")


@pytest.mark.parametrize("key", [7, b"x", ["x"]])
def test_a_key_of_another_kind_is_refused(key: Any) -> None:
    with pytest.raises(LockKeyError, match="template, a callable or None"):
        maker(plain, key)


# Callables ----------------------------------------------------------------------------------------------------------


def test_a_callable_is_called_as_the_task_is() -> None:
    def own(first: Any, /, second: Any = 2, *rest: Any, third: Any = 3, **more: Any) -> str:
        return f"{first}{second}{rest}{third}{more}"

    assert maker(wild, own)(1, 5, 6, third=7, x=8) == "15(6,)7{'x': 8}"
    assert maker(wild, own)(1, first=8) == "12()3{'first': 8}"


def test_a_callable_gets_the_defaults_of_the_task() -> None:
    assert maker(plain, lambda shop_id, full, page: f"{shop_id}{full}{page}")(7) == "7False1"
    assert maker(plain, lambda shop_id, full="mine", **others: f"{full}{others}")(7) == "False{'page': 1}"
    assert maker(plain, lambda shop_id: f"{shop_id}")(7) == "7"
    assert maker(plain, str)(7) == "7"


@pytest.mark.parametrize(("returned", "said"), [(None, "None"), ("", "''"), (7, "int"), (b"x", "bytes")])
def test_a_callable_must_return_text(returned: Any, said: str) -> None:
    def own(shop_id: Any) -> Any:
        return returned

    with pytest.raises(LockKeyError, match=rf"{own.__qualname__} returned .*{said}"):
        maker(plain, own)(7)


def test_a_callable_that_raises() -> None:
    def own(shop_id: dict[str, str]) -> str:
        return shop_id["no"]

    with pytest.raises(LockKeyError, match=rf"{own.__qualname__} raised KeyError") as caught:
        maker(plain, own)({})
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_lock_key_error_from_a_callable_passes() -> None:
    error = LockKeyError("no key for shop 7")

    def own(shop_id: Any) -> str:
        raise error

    with pytest.raises(LockKeyError) as caught:
        maker(plain, own)(7)
    assert caught.value is error


# Pydantic -----------------------------------------------------------------------------------------------------------


class Line(BaseModel):
    sku: str = Field(alias="SKU")
    count: int = 1

    @field_validator("sku")
    @classmethod
    def _only_short(cls, sku: str) -> str:
        if len(sku) > 5:
            raise RuntimeError
        return sku


def with_model(line: Line, other: Line | None = None, old: Optional[Line] = None) -> None: ...  # noqa: UP045


@pytest.mark.parametrize("name", ["line", "other", "old"])
@pytest.mark.parametrize("key", [None, "<line.sku>:<line[count]>:<other>:<old>", lambda **own: f"{own!r}"])
def test_promise_14_a_model_and_the_dict_that_was_sent_have_one_key(name: str, key: Any) -> None:
    made = maker(with_model, key)
    line = Line(SKU="a")
    kwargs = {"line": line, name: line}
    assert (
        made(**kwargs) == made(**{**kwargs, name: {"SKU": "a"}}) == made(**{**kwargs, name: {"SKU": "a", "count": 1}})
    )
    assert made(**kwargs) != made(**{**kwargs, name: {"SKU": "b"}})


def test_a_positional_model_reaches_the_callable_as_a_model() -> None:
    assert maker(with_model, lambda line: str(line.sku))({"SKU": "a"}) == "a"


def test_a_mapping_that_is_no_model_stays_as_it_is() -> None:
    assert maker(with_model)({"SKU": "too long"}) == 'proj.task(line={"SKU":"too long"},other=null,old=null)'
    assert maker(with_model)({"no": 1}) == 'proj.task(line={"no":1},other=null,old=null)'


def test_the_annotations_of_the_signature_serve_too() -> None:
    parameter = inspect.Parameter("line", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=Line)
    made = KeyMaker(None, inspect.Signature([parameter]), "t")
    assert made.key(({"SKU": "a"},), {}) == made.key((Line(SKU="a"),), {})


# Any key ------------------------------------------------------------------------------------------------------------

HASHED = re.compile(r"~[0-9a-f]{32}\Z")


@pytest.mark.parametrize("key", ["user:7", "a" * 200, "é" * 100, "😀" * 50, "a\nb", "a\x00b", " "])
def test_a_short_key_stays_as_it_is(key: str) -> None:
    assert check_key(key) == key


@pytest.mark.parametrize(
    "key", ["a" * 201, "x" * 10_000, "é" * 101, "😀" * 51, "a" + "😀" * 60, "\n" * 300, "\x00" * 300]
)
def test_a_long_key_is_its_start_and_a_hash(key: str) -> None:
    short = check_key(key)
    assert HASHED.search(short)
    assert key.startswith(short[:-33])
    assert 196 <= len(short.encode()) <= 200
    assert check_key(short) == short
    assert check_key(key[:-1] + "!") != short


def test_a_hashed_key_never_changes() -> None:
    # Processes of two releases share locks while a deploy runs.
    assert check_key("a" * 201) == "a" * 167 + "~" + "d18280657f68288ba8d13f081407438e"


@pytest.mark.parametrize("key", ["", None, 7, b"user:7", "a\ud800", "x" * 500 + "\ud800"])
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(LockKeyError):
        check_key(key)


def test_a_subclass_of_str_becomes_text() -> None:
    assert type(check_key(v.Text("a"))) is str
    assert check_key(v.Size.S) == "s"


def test_keys_of_tasks_are_shortened_too() -> None:
    for key in (None, "shop:<shop_id>", lambda shop_id: f"shop:{shop_id}"):
        made = maker(plain, key)
        assert HASHED.search(made("x" * 10_000))
        assert made("x" * 10_000) != made("x" * 9_999)


def test_a_task_name_that_can_not_be_encoded() -> None:
    with pytest.raises(LockKeyError, match="surrogate"):
        KeyMaker(None, inspect.signature(plain), "\ud800").key((7,), {})
