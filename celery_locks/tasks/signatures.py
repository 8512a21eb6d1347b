"""The signature by which callers call a task, also where decorators wrap its body.

Celery checks a call against the outermost callable. The key is made by the same signature. The inner function's
signature would be wrong, because a decorator may add an argument. The signature of a wrapper with ``*args, **kwargs``
names no parameters, so its source is read to find how it calls the inner function.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import types
import typing
from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from dataclasses import dataclass, field, is_dataclass
from importlib import import_module
from inspect import Parameter, Signature
from typing import Any
from weakref import WeakKeyDictionary

from celery_locks.errors import LockConfigError, LockKeyError
from celery_locks.keys.canonical import model_base
from celery_locks.keys.maker import KeyMaker, Unresolved
from celery_locks.keys.template import Template
from celery_locks.tasks._celery_patches import is_pydantic_wrapper, pydantic_validation

_VARIADIC = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
_POSITIONAL = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)
#: Methods that change a dictionary.
_CHANGES = {"pop", "popitem", "setdefault", "update", "clear", "__setitem__", "__delitem__"}
#: Wrappers of the standard library that pass all arguments to their function, and have no source.
_TRANSPARENT = (functools._lru_cache_wrapper,)


@dataclass(frozen=True)
class CallSignature:
    """How callers call a task.

    Attributes:
        signature: Its parameters, without ``self``. The defaults are copies, made when the task was defined.
        hints: The types of the parameters by name.
        doubt: Why the parameters of ``*args`` and ``**kwargs`` are unknown; empty when all are known.
        validate: Makes a Pydantic model of a value as Celery does for the body; ``None`` for the model's own method.
    """

    signature: Signature
    hints: Mapping[str, Any] = field(default_factory=dict)
    doubt: str = ""
    validate: Callable[[Any, Any], Any] | None = None

    def key_maker(self, key: Any, task_name: str | None) -> KeyMaker:
        """Return the maker of the task's keys.

        Raises:
            LockKeyError: The key is malformed, names no argument, or names one whose parameter is unknown.
        """
        maker = KeyMaker(key, self.signature, task_name, self.hints, self.validate)
        if self.doubt and not callable(key):
            known = {name for name, each in self.signature.parameters.items() if each.kind not in _VARIADIC}
            names = [each.name for each in Template(key).placeholders] if key is not None else ["*args"]
            unknown = [name for name in names if name not in known]
            if unknown:
                raise LockKeyError(
                    f"{task_name or 'the task'} makes no key of the argument {unknown[0]}: {self.doubt}. Give the "
                    "decorator's wrapper the signature that callers use (its own parameters, or __signature__), or "
                    "give the task a callable key="
                )
        return maker


def call_signature(function: Any, *, bound: bool = False) -> CallSignature:
    """Return how callers call a body.

    Args:
        function: The body, with all its decorators.
        bound: Whether its first argument is the task.
    """
    signature, doubt = _signature(function)
    if bound:
        signature = _without_first(signature)
    return CallSignature(signature, _hints(function, signature), doubt, pydantic_validation(function))


def is_async(function: Any) -> bool:
    """Return whether the definition of a function shows that its calls return coroutines."""
    if isinstance(function, functools.partial):
        return is_async(function.func)
    if isinstance(function, (staticmethod, classmethod, types.MethodType)):
        return is_async(function.__func__)
    called = function if inspect.isroutine(function) else inspect.getattr_static(type(function), "__call__", None)
    if any(inspect.iscoroutinefunction(each) or inspect.isasyncgenfunction(each) for each in (function, called)):
        return True
    inner = _wrapped(function)
    if inner is None or not is_async(inner):
        return False
    if _is_transparent(function):
        return True
    source = _Source.of(function, inner)
    return source is not None and source.returns_call()


def async_error(name: str) -> LockConfigError:
    """Return the error for an async function of this name."""
    return LockConfigError(
        f"{name} is an async function: Celery doesn't run those, so it can't be locked. "
        "Make it a plain function, that may call asyncio.run()"
    )


# Signatures -----------------------------------------------------------------------------------------------------------


def _signature(function: Any) -> tuple[Signature, str]:
    """Return the signature by which callers call a function, and why it may be incomplete."""
    if isinstance(function, functools.partial):
        inner, doubt = _signature(function.func)

        def stub(*args: Any, **kwargs: Any) -> None: ...

        stub.__signature__ = inner  # type: ignore[attr-defined]
        try:
            return inspect.signature(functools.partial(stub, *function.args, **function.keywords)), doubt
        except (TypeError, ValueError):
            return inner, doubt or "it is a functools.partial with arguments that its function does not take"
    if isinstance(function, (staticmethod, classmethod)):
        return _signature(function.__func__)
    if isinstance(function, types.MethodType):
        inner, doubt = _signature(function.__func__)
        return _without_first(inner), doubt
    inside = _wrapped(function)
    if inside is not None and _is_transparent(function):
        return _signature(inside)
    own = _own_signature(function, inside)
    if own is None:
        return _ANYTHING, f"{_name(function)} has no signature that Python can read"
    if inside is None or not any(each.kind in _VARIADIC for each in own.parameters.values()):
        return own, ""
    inner, doubt = _signature(inside)
    if doubt:
        return own, doubt
    source = _Source.of(function, inside)
    if source is None:
        return own, f"the source of the decorator's {_name(function)} can't be read"
    through = source.signature(own, inner)
    if through is None:
        where = f"line {source.line} of {source.module}"
        return own, f"the decorator's {_name(function)} ({where}) may add, drop or change arguments"
    return through, ""


def _own_signature(function: Any, inside: Any) -> Signature | None:
    """Return the signature of a callable itself, not of the function that it wraps; without annotations."""
    given = _static(function, "__signature__")
    # functools.wraps() copies the inner function's __signature__, which may differ from the wrapper's.
    if given is not None and (inside is None or given is not _static(inside, "__signature__")):
        return _frozen(function, given) if isinstance(given, Signature) else _read(function)
    if isinstance(function, types.FunctionType):
        bare = types.FunctionType(function.__code__, {}, function.__name__, function.__defaults__, function.__closure__)
        bare.__kwdefaults__ = function.__kwdefaults__
        return _frozen(function, inspect.signature(bare))
    method = inspect.getattr_static(type(function), "__call__", None)
    if not inspect.isroutine(function) and isinstance(method, types.FunctionType):
        called = _own_signature(method, _wrapped(method))
        return None if called is None else _without_first(called)
    return _read(function)


def _read(function: Any) -> Signature | None:
    try:
        return _frozen(function, inspect.signature(function, follow_wrapped=False))
    except Exception:  # builtins without one; annotations that can't be evaluated
        return None


def _without_first(signature: Signature) -> Signature:
    parameters = list(signature.parameters.values())
    first = 1 if parameters and parameters[0].kind in _POSITIONAL else 0
    return signature.replace(parameters=parameters[first:])


_ANYTHING = inspect.signature(lambda *args, **kwargs: None)
_DEFAULTS: WeakKeyDictionary[Any, dict[str, Any]] = WeakKeyDictionary()


def _frozen(function: Any, signature: Signature) -> Signature:
    """Return the signature with the defaults that the function had first. A body may change a list or dict later."""
    try:
        defaults = _DEFAULTS.setdefault(function, {})
    except TypeError:  # no weak reference, or no hash
        defaults = {}
    parameters = []
    for name, parameter in signature.parameters.items():
        if parameter.default is not Parameter.empty:
            if name not in defaults:
                defaults[name] = _copied(parameter.default)
            parameter = parameter.replace(default=defaults[name])
        parameters.append(parameter)
    return signature.replace(parameters=parameters)


def _copied(default: Any) -> Any:
    model = model_base()
    changes = isinstance(default, (list, dict, set, bytearray, tuple)) or is_dataclass(type(default))
    if not changes and not (model is not None and isinstance(default, model)):
        return default  # a sentinel stays itself
    try:
        return deepcopy(default)
    except Exception:  # it contains a lock, for example; no key can be made of it either
        return default


# How a decorator calls the inner function -----------------------------------------------------------------------------


@dataclass
class _Source:
    """The source of a wrapper, read for how it calls the inner function.

    Attributes:
        node: Its definition.
        calls: The arguments of each call of the inner function, by position and by keyword.
        nodes: These calls.
        module: The module's name.
        line: The line of the definition.
    """

    node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda
    calls: list[tuple[list[ast.expr], list[ast.keyword]]]
    nodes: list[ast.Call]
    module: str
    line: int

    @classmethod
    def of(cls, wrapper: Any, inside: Any) -> _Source | None:
        """Return the source of a wrapper, ``None`` if it can't be read."""
        function = (
            wrapper
            if isinstance(wrapper, types.FunctionType)
            else inspect.getattr_static(type(wrapper), "__call__", None)
        )
        if not isinstance(function, types.FunctionType):
            return None
        node = _definition(function.__code__)
        if node is None:
            return None
        names = {**function.__globals__, **_nonlocals(function)}
        me = node.args.args[0].arg if function is not wrapper and node.args.args else None

        def is_inside(expression: ast.expr) -> bool:
            if isinstance(expression, ast.Name):
                return names.get(expression.id) is inside
            if isinstance(expression, ast.Attribute) and isinstance(expression.value, ast.Name):
                owner = wrapper if expression.value.id == me else names.get(expression.value.id)
                return owner is not None and _static(owner, expression.attr) is inside
            return False

        calls, nodes = [], []
        for call in (each for each in ast.walk(node) if isinstance(each, ast.Call)):
            if is_inside(call.func):
                calls.append((call.args, call.keywords))
                nodes.append(call)
            else:  # run(function, *args, **kwargs)
                at = next((number for number, each in enumerate(call.args) if is_inside(each)), None)
                if at is not None and any(isinstance(each, ast.Starred) for each in call.args[at + 1 :]):
                    calls.append((call.args[at + 1 :], call.keywords))
        return cls(node, calls, nodes, function.__module__, function.__code__.co_firstlineno)

    def signature(self, own: Signature, inner: Signature) -> Signature | None:
        """Return the signature by which callers call the wrapper, ``None`` if the source does not show it."""
        args, kwargs = self.node.args.vararg, self.node.args.kwarg
        names = {each.arg for each in (args, kwargs) if each is not None}
        if not self.calls or self._changes_arguments(names):
            return None
        found = {
            _signature_through(own, inner, call, args.arg if args else None, kwargs.arg if kwargs else None)
            for call in self.calls
        }
        return found.pop() if len(found) == 1 else None

    def _changes_arguments(self, names: set[str]) -> bool:
        """Return whether the wrapper may change its ``args`` or ``kwargs``."""
        for each in ast.walk(self.node):
            if isinstance(each, ast.Name) and each.id in names and not isinstance(each.ctx, ast.Load):
                return True
            if isinstance(each, ast.Subscript) and not isinstance(each.ctx, ast.Load) and _is_name(each.value, names):
                return True
            method = each.func if isinstance(each, ast.Call) else None
            if isinstance(method, ast.Attribute) and method.attr in _CHANGES and _is_name(method.value, names):
                return True
            within = isinstance(each, ast.arguments) and each is not self.node.args
            if within and names & {argument.arg for argument in ast.walk(each) if isinstance(argument, ast.arg)}:
                return True
        return False

    def returns_call(self) -> bool:
        """Return whether the wrapper returns the result of the inner function unchanged."""
        body: list[ast.AST] = [self.node.body] if isinstance(self.node, ast.Lambda) else list(self.node.body)
        if isinstance(self.node, ast.Lambda):
            return body[0] in self.nodes
        own = list(_without_functions(body))
        made = {
            target.id
            for each in own
            if isinstance(each, ast.Assign) and each.value in self.nodes
            for target in each.targets
            if isinstance(target, ast.Name)
        }
        returned = [each.value for each in own if isinstance(each, ast.Return) and each.value is not None]
        return any(value in self.nodes or _is_name(value, made) for value in returned)


def _signature_through(
    own: Signature,
    inner: Signature,
    call: tuple[list[ast.expr], list[ast.keyword]],
    args: str | None,
    kwargs: str | None,
) -> Signature | None:
    """Return the signature by which callers call a wrapper that makes this call of the inner function.

    The wrapper's own parameters come first. The parameters of the inner function that this call does not fill follow.

    Args:
        own: The wrapper's own signature.
        inner: The inner function's signature.
        call: The arguments of the call, by position and by keyword.
        args: The name of the wrapper's ``*args``.
        kwargs: The name of the wrapper's ``**kwargs``.
    """
    arguments, keywords = call
    has_args = bool(arguments) and isinstance(arguments[-1], ast.Starred) and _is_name(arguments[-1].value, {args})
    filled_first = arguments[:-1] if has_args else arguments
    if any(isinstance(each, ast.Starred) for each in filled_first) or has_args != (args is not None):
        return None
    unpacked = [each.value for each in keywords if each.arg is None]
    has_kwargs = len(unpacked) == 1 and _is_name(unpacked[0], {kwargs})
    if len(unpacked) != has_kwargs or has_kwargs != (kwargs is not None):
        return None
    parameters = list(inner.parameters.values())
    positional = [each for each in parameters if each.kind in _POSITIONAL]
    if len(filled_first) > len(positional):
        return None
    filled_by_name = {each.arg for each in keywords if each.arg is not None}
    if filled_by_name & {each.name for each in positional[: len(filled_first)]}:
        return None
    mine = [each for each in own.parameters.values() if each.kind not in _VARIADIC]
    made, by_keyword = [each for each in mine if each.kind in _POSITIONAL], []
    in_reach = has_args
    for each in positional[len(filled_first) :]:
        if each.name in filled_by_name:
            in_reach = False  # callers can give the following parameters by keyword only
        elif in_reach:
            made.append(each if has_kwargs else each.replace(kind=Parameter.POSITIONAL_ONLY))
        elif each.kind is Parameter.POSITIONAL_ONLY or not has_kwargs:
            if each.default is Parameter.empty:
                return None
        else:
            by_keyword.append(each.replace(kind=Parameter.KEYWORD_ONLY))
    by_keyword = [each for each in mine if each.kind is Parameter.KEYWORD_ONLY] + by_keyword
    for each in parameters:
        if each.kind is Parameter.VAR_POSITIONAL and in_reach:
            made.append(each)
        elif each.kind is Parameter.KEYWORD_ONLY and has_kwargs and each.name not in filled_by_name:
            by_keyword.append(each)
    last = [each for each in parameters if each.kind is Parameter.VAR_KEYWORD and has_kwargs]
    try:
        return Signature([*made, *by_keyword, *last])
    except ValueError:  # a duplicate name, or a parameter without a default after one with a default
        return None


def _definition(code: types.CodeType) -> ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | None:
    try:
        lines, _ = inspect.findsource(code)
        tree = _parsed("".join(lines))
    except (OSError, SyntaxError, ValueError, RecursionError):
        return None
    found = []
    for each in ast.walk(tree):
        if isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef)):
            first = min([each.lineno, *(decorator.lineno for decorator in each.decorator_list)])
            if each.name == code.co_name and first == code.co_firstlineno:
                found.append(each)
        elif isinstance(each, ast.Lambda) and code.co_name == "<lambda>" and each.lineno == code.co_firstlineno:
            found.append(each)  # type: ignore[arg-type]
    return found[0] if len(found) == 1 else None


@functools.lru_cache(maxsize=8)
def _parsed(source: str) -> ast.Module:
    return ast.parse(source)


def _without_functions(nodes: list[ast.AST]) -> Iterator[ast.AST]:
    for node in nodes:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield node
            yield from _without_functions(list(ast.iter_child_nodes(node)))


def _is_name(expression: ast.expr, names: Any) -> bool:
    return isinstance(expression, ast.Name) and expression.id in names


def _nonlocals(function: types.FunctionType) -> dict[str, Any]:
    found = {}
    for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
        try:
            found[name] = cell.cell_contents
        except ValueError:  # not assigned yet  # noqa: PERF203
            continue
    return found


def _wrapped(function: Any) -> Any:
    return _static(function, "__wrapped__")


def _static(value: Any, name: str) -> Any:
    """Return an attribute of the object itself, ``None`` if it has none. A proxy is not evaluated."""
    try:
        return object.__getattribute__(value, "__dict__").get(name)
    except AttributeError:
        return None


def _name(function: Any) -> str:
    code = getattr(function, "__code__", None)
    return str(getattr(code, "co_name", None) or type(function).__qualname__)


def _is_transparent(function: Any) -> bool:
    return isinstance(function, _TRANSPARENT) or is_pydantic_wrapper(function)


# Types ----------------------------------------------------------------------------------------------------------------


def _hints(function: Any, signature: Signature) -> dict[str, Any]:
    """Return the types of parameters by name. Each is resolved alone, as a name may exist for type checkers only."""
    hints: dict[str, Any] = {}
    layers = list(_layers(function))
    namespaces = [_namespace(layer) for layer in reversed(layers) if isinstance(layer, types.FunctionType)]
    pydantic = any(map(is_pydantic_wrapper, layers))
    for layer in layers:
        for name, raw in _annotations(layer).items():
            if name in signature.parameters and name not in hints:
                hints[name] = _resolved(raw, namespaces, pydantic)
    return hints


def _layers(function: Any) -> Iterator[Any]:
    """Yield a callable and the functions that it wraps, the outermost first."""
    while function is not None:
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, (staticmethod, classmethod, types.MethodType)):
            function = function.__func__
        else:
            yield function
            call = inspect.getattr_static(type(function), "__call__", None)
            if not inspect.isroutine(function) and isinstance(call, types.FunctionType):
                yield call
            function = _wrapped(function)


def _annotations(function: Any) -> dict[str, Any]:
    try:
        if sys.version_info >= (3, 14):
            library = import_module("annotationlib")
            return dict(library.get_annotations(function, format=library.Format.FORWARDREF))
        return dict(getattr(function, "__annotations__", None) or {})
    except Exception:  # an annotation may raise anything when it is evaluated
        return {}


_Namespace = tuple[dict[str, Any], dict[str, Any]]


def _namespace(function: types.FunctionType) -> _Namespace:
    """Return the global and the local names by which a function's annotations may be found."""
    own = {each.__name__: each for each in getattr(function, "__type_params__", ())} | _nonlocals(function)
    return function.__globals__, {**_defining_locals(function), **own}


def _defining_locals(function: types.FunctionType) -> dict[str, Any]:
    """Return the local names of the function that defines this one, while that function runs."""
    *_, outer, kind, _ = ["", "", *function.__qualname__.split(".")]
    if kind != "<locals>":
        return {}
    frame: types.FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code.co_name == outer and frame.f_globals is function.__globals__:
            return dict(frame.f_locals)
        frame = frame.f_back
    return {}


def _resolved(raw: Any, namespaces: list[_Namespace], pydantic: bool) -> Any:
    if isinstance(raw, type):
        return raw
    for names, own in namespaces:
        found = _evaluated(raw, names, own)
        if found is not None:
            return found
    later = [names for names, _ in namespaces]

    def resolve() -> Any:  # a name that the module defines further down
        return next((found for names in later if (found := _evaluated(raw, names, {})) is not None), None)

    return Unresolved(raw if isinstance(raw, str) else repr(raw), resolve, pydantic)


def _evaluated(raw: Any, names: dict[str, Any], own: dict[str, Any]) -> Any:
    def probe() -> None: ...

    probe.__annotations__ = {"it": raw}
    try:
        return typing.get_type_hints(probe, names, own)["it"]
    except Exception:  # an annotation is evaluated, and may raise anything
        return None
