"""The key of a call: made from a task's arguments by a template or a callable, or from all of them."""

from __future__ import annotations

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from inspect import Parameter
from typing import Any

from celery_locks.errors import LockKeyError
from celery_locks.keys.canonical import NoStableText, canonical, class_name, model_base
from celery_locks.keys.template import Template
from celery_locks.keys.text import LOOKS_HASHED, check_key, hashed

_KEYWORD_KINDS = (Parameter.POSITIONAL_OR_KEYWORD, Parameter.KEYWORD_ONLY)
_POSITIONAL_KINDS = (Parameter.POSITIONAL_ONLY, Parameter.POSITIONAL_OR_KEYWORD)


@dataclass(frozen=True)
class Unresolved:
    """An annotation with an unknown name, such as one that is imported for type checkers only.

    Attributes:
        text: The annotation.
        resolve: Returns the type once its names are known, until then ``None``.
        pydantic: Whether Celery makes models of the task's arguments. Then a model and the mapping that is sent for it
            could get different keys, so a model is refused.
    """

    text: str
    resolve: Callable[[], Any]
    pydantic: bool = False


class KeyMaker:
    """Makes the key of a call of one task.

    Args:
        key: A template, a callable with the task's own signature that returns a ``str``, or ``None`` for the task's
            name with all arguments.
        signature: The signature of the task's body, without ``self``.
        task_name: The task's name, if it is known already.
        annotations: The resolved type hints of the body; by default those of the signature. A value that is passed for
            a Pydantic model makes the same key as the model. A hint that can't be resolved is an `Unresolved`.
        validate: Makes a model from a type and a value; by default the model's ``model_validate()``.

    Raises:
        LockKeyError: The key is of another type, or its template is malformed or names no argument of the task.
    """

    def __init__(
        self,
        key: str | Callable[..., str] | None,
        signature: inspect.Signature,
        task_name: str | None = None,
        annotations: Mapping[str, Any] | None = None,
        validate: Callable[[Any, Any], Any] | None = None,
    ) -> None:
        self._task_name = task_name
        self._arguments = _Arguments(
            signature, annotations or {}, validate or (lambda model, value: model.model_validate(value))
        )
        self._template: Template | None = None
        self._callable: _CallableKey | None = None
        if isinstance(key, str):
            self._template = Template(key)
            self._arguments.check_template(self._template, task_name)
        elif callable(key):
            self._callable = _CallableKey(key, self._arguments)
        elif key is not None:
            raise LockKeyError(f"A task's key must be a template, a callable or None, not {class_name(type(key))}.")

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any], task_name: str | None = None) -> str:
        """Return the key of a call.

        Args:
            args: The call's positional arguments, without ``self``.
            kwargs: Its keyword arguments.
            task_name: The task's name, if it was not known before.

        Raises:
            LockKeyError: An argument has no stable text or lacks the part that the template names, or the callable
                failed or returned no key.
            TypeError: The call doesn't fit the signature.
        """
        bound = self._arguments.bind(args, kwargs)
        if self._template is not None:
            return self._from_template(self._template, bound)
        if self._callable is not None:
            return self._callable.key(args, kwargs, bound)
        return self._from_all(bound, task_name or self._task_name)

    def _from_template(self, template: Template, bound: dict[str, Any]) -> str:
        text = template.text(lambda name: self._arguments.named(bound, name))
        if not text:
            raise LockKeyError(f"{template.placeholders[0].source} makes no key: it is empty.", key="")
        # Otherwise a value could be chosen so that its key is the hashed key of another value.
        if template.may_look_hashed and LOOKS_HASHED.search(text):
            return hashed(text.encode())
        return check_key(text)

    def _from_all(self, bound: dict[str, Any], task_name: str | None) -> str:
        if not task_name:
            raise LockKeyError("A task without a name needs a key= of its own.")
        parts = []
        for name, value in bound.items():
            if name in self._arguments.variadic and not value:
                continue
            self._arguments.check_resolved(name, value)
            try:
                parts.append(f"{name}={canonical(value)}")
            except NoStableText as problem:
                raise LockKeyError(
                    f"{task_name}: the argument {name}{problem.path} {problem.problem}. Give the task a key= template "
                    'that names plain parts, such as "order:<order.id>", or a callable that returns a str.'
                ) from problem
        return check_key(f"{task_name}({','.join(parts)})")


class _CallableKey:
    """A user's function that makes the key. It is called as the task is called.

    It gets models where the body does. It also gets the task's defaults by name, if it has parameters for them, so that
    users need not write the defaults twice.
    """

    def __init__(self, function: Callable[..., str], arguments: _Arguments) -> None:
        self._function = function
        self._arguments = arguments
        name = getattr(function, "__qualname__", None) or class_name(type(function))
        self._name = f"{getattr(function, '__module__', None) or ''}.{name}".lstrip(".")
        self._fill = arguments.keyword_defaults & _keywords_taken(function, arguments.keyword_defaults)

    def key(self, args: Sequence[Any], kwargs: Mapping[str, Any], bound: dict[str, Any]) -> str:
        positional, named = self._arguments.as_called(args, kwargs, bound)
        taken = self._arguments.positional[: len(args)]
        named |= {name: self._arguments.fresh(name, bound[name]) for name in self._fill if name not in taken}
        try:
            key = self._function(*positional, **named)
        except LockKeyError:
            raise
        except Exception as error:
            raise LockKeyError(f"The key function {self._name} raised {type(error).__name__}: {error}") from error
        if not isinstance(key, str) or not key:
            returned = repr(key) if key is None or isinstance(key, str) else f"a value of type {type(key).__name__}"
            raise LockKeyError(f"The key function {self._name} returned {returned}; it must return a str, not empty.")
        return check_key(key)


class _Arguments:
    """Binds calls to a signature, quickly if all its parameters can be passed by name."""

    def __init__(
        self, signature: inspect.Signature, annotations: Mapping[str, Any], validate: Callable[[Any, Any], Any]
    ) -> None:
        parameters = signature.parameters.values()
        self._signature = signature
        self._names = tuple(signature.parameters)
        self._quick = all(parameter.kind in _KEYWORD_KINDS for parameter in parameters)
        self._defaults = {p.name: p.default for p in parameters if p.default is not Parameter.empty}
        self._keywords = {p.name for p in parameters if p.kind in _KEYWORD_KINDS}
        self._extra = next((p.name for p in parameters if p.kind is Parameter.VAR_KEYWORD), None)
        self.positional = tuple(p.name for p in parameters if p.kind in _POSITIONAL_KINDS)
        self.keyword_defaults = self._keywords & self._defaults.keys()
        self.variadic = {name for name in self._names if name not in self._keywords and name not in self.positional}
        hints = {p.name: annotations.get(p.name, p.annotation) for p in parameters if p.name not in self.variadic}
        self._unresolved = {name: hint for name, hint in hints.items() if isinstance(hint, Unresolved)}
        self._models = {name: model for name, hint in hints.items() if (model := _model_of(hint))}
        self._validate = validate

    def check_template(self, template: Template, task_name: str | None) -> None:
        """Raise `LockKeyError` for the first placeholder that can't be an argument, or that has another syntax.

        By a placeholder in another syntax, all calls would have one key.
        """
        for placeholder in template.placeholders if self._extra is None else ():
            if placeholder.name not in self._names:
                from difflib import get_close_matches  # for an error only

                near = get_close_matches(placeholder.name, self._names, 1)
                have = f"did you mean <{near[0]}>?" if near else f"it has {', '.join(self._names) or 'none'}"
                task = f"the task {task_name}" if task_name else "the task"
                problem = f"names {placeholder.source}, but {task} has no argument {placeholder.name}; {have}"
                raise template.error(problem, placeholder.position)
        found = template.foreign(self._names, self._extra is not None)
        if found is not None:
            position, text, name = found
            remedy = f"write <{name}>" if name else "name the argument, such as <user_id>"
            raise template.error(f"has {text}, which stands for no argument here; {remedy}", position)

    def bind(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any]:
        """Return all arguments and defaults by name, in the order of the signature.

        Raises:
            TypeError: The call doesn't fit the signature.
        """
        bound = self._bind_quickly(args, kwargs) if self._quick else None
        if bound is None:
            full = self._signature.bind(*args, **kwargs)
            full.apply_defaults()
            bound = dict(full.arguments)
        if self._unresolved:
            self._resolve()
        for name, model in self._models.items():
            value = bound[name]
            if value is not None and not isinstance(value, model):
                bound[name] = self._as_model(value, model)
        return bound

    def _resolve(self) -> None:
        for name, hint in list(self._unresolved.items()):
            found = hint.resolve()
            if found is not None:
                self._unresolved.pop(name, None)
                model = _model_of(found)
                if model is not None:
                    self._models = {**self._models, name: model}

    def _as_model(self, value: Any, model: Any) -> Any:
        base = model_base()
        if base is not None and isinstance(value, base):
            return value
        try:
            return self._validate(model, value)
        except Exception:  # a validator may raise any error; the task decides whether the arguments are valid
            return value

    def check_resolved(self, name: str, value: Any) -> None:
        """Raise `LockKeyError` for a model if the mapping that is sent for it might make another key."""
        hint, base = self._unresolved.get(name), model_base()
        if hint is not None and hint.pydantic and base is not None and isinstance(value, base):
            raise LockKeyError(
                f"the argument {name} makes no key: its annotation {hint.text} can't be resolved, so Celery would not "
                f"make a {class_name(type(value))} of what it sends. Import the name at run time, not for type "
                "checkers only"
            )

    def _bind_quickly(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> dict[str, Any] | None:
        """Return what the signature would, several times faster; ``None`` if a call doesn't fit."""
        count = len(args)
        if count > len(self.positional):
            return None
        bound = dict(zip(self._names, args, strict=False))
        named = 0
        for name in self._names[count:]:
            if name in kwargs:
                bound[name] = kwargs[name]
                named += 1
            elif name in self._defaults:
                bound[name] = self._defaults[name]
            else:
                return None
        return bound if named == len(kwargs) else None

    def named(self, bound: dict[str, Any], name: str) -> Any:
        """Return an argument by its name, also from ``**kwargs``.

        Raises:
            LockKeyError: The call has no argument of this name.
        """
        if name in self._names:
            self.check_resolved(name, bound[name])
            return bound[name]
        extra = bound[self._extra] if self._extra is not None else {}
        if name not in extra:
            raise LockKeyError(f"<{name}> makes no key: the call has no argument {name}.")
        return extra[name]

    def fresh(self, name: str, value: Any) -> Any:
        """Return a copy of a default, because a user's function may change a list or a dictionary."""
        return deepcopy(value) if isinstance(value, (list, dict, set)) and value is self._defaults[name] else value

    def as_called(
        self, args: Sequence[Any], kwargs: Mapping[str, Any], bound: dict[str, Any]
    ) -> tuple[list[Any], dict[str, Any]]:
        """Return a call's arguments as it passed them, with models in place of mappings."""
        positional = [bound[name] for name, _ in zip(self.positional, args, strict=False)]
        named = {name: bound[name] if name in self._keywords else value for name, value in kwargs.items()}
        return [*positional, *args[len(positional) :]], named


def _keywords_taken(function: Callable[..., Any], names: set[str]) -> set[str]:
    """Return the names that the function accepts as keywords."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):  # some builtins have no signature
        return set()
    if any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters):
        return names
    return {parameter.name for parameter in parameters if parameter.kind in _KEYWORD_KINDS}


def _model_of(annotation: Any) -> Any:
    """Return the Pydantic model of a parameter's annotation, found in the same way as by Celery's ``pydantic=True``."""
    base = model_base()
    while typing.get_origin(annotation) is typing.Annotated:
        annotation = typing.get_args(annotation)[0]
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        some = [arg for arg in typing.get_args(annotation) if arg is not types.NoneType]
        return _model_of(some[0]) if len(some) == 1 else None
    is_class = isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias)
    return annotation if base is not None and is_class and issubclass(annotation, base) else None
