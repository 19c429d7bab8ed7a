"""JSON by msgspec, refusing what JSON would silently alter."""

import hashlib
import math
import re
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import msgspec

T = TypeVar("T")

_QUOTED = re.compile(r"'[^']*'")
_ANNOTATIONS = ("title", "description")


def encode_json(value: Any) -> bytes:
    """The value as JSON.

    Raises `ValueError` for NaN and infinities, which msgspec writes as ``null``, for lone
    surrogates, for nesting beyond the interpreter's recursion limit, and `TypeError` for
    what has no JSON form.
    """
    try:
        if (model := _pydantic_model()) is not None and isinstance(value, model):
            data: bytes = value.model_dump_json().encode()
        else:
            data = msgspec.json.encode(value, enc_hook=_to_builtins)
        if b"null" in data:
            _refuse_non_finite(value)
    except RecursionError:
        raise ValueError("nested too deeply for JSON") from None
    except UnicodeEncodeError as error:
        raise ValueError("holds a lone surrogate") from error
    except OverflowError as error:
        raise ValueError(str(error)) from error
    return data


def json_decoder(target: type[T]) -> Callable[[bytes], T]:
    """A function that reads JSON into `target`.

    Raises `TypeError` at once for a class that JSON can't be decoded into; what the function
    raises is put into words by `decoding_fault`.
    """
    if (model := _pydantic_model()) is not None and issubclass(target, model):
        validate: Callable[[bytes], T] = target.model_validate_json  # type: ignore[attr-defined]  # a pydantic model, which core doesn't depend on
        return validate
    decode: Callable[[bytes], T] = msgspec.json.Decoder(target, dec_hook=_from_builtins).decode
    return decode


def decoding_fault(error: Exception) -> str:
    """Why a payload didn't decode: which field, and what was wrong, without the values."""
    if callable(details := getattr(error, "errors", None)):
        faults = details(include_input=False, include_url=False, include_context=False)
        return "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in faults)
    if isinstance(error, RecursionError):
        return "nested too deeply"
    text = str(error)
    return _QUOTED.sub("…", text) if text.startswith("Invalid enum value") else text


def json_fingerprint(target: type) -> str:
    """Sixteen hex digits that change when the shape of the class's JSON does."""
    if (model := _pydantic_model()) is not None and issubclass(target, model):
        schema = target.model_json_schema()  # type: ignore[attr-defined]  # a pydantic model, which core doesn't depend on
    else:
        schema = msgspec.json.schema(target, schema_hook=_schema_of)
    shape = msgspec.json.encode(_without_prose(schema), order="deterministic")
    return hashlib.sha256(shape).hexdigest()[:16]


def _pydantic_model() -> type[Any] | None:
    """Pydantic's ``BaseModel`` if the application imported it: nobody has a model otherwise."""
    pydantic = sys.modules.get("pydantic")
    return getattr(pydantic, "BaseModel", None)


def _to_builtins(value: Any) -> Any:
    if (model := _pydantic_model()) is not None and isinstance(value, model):
        return value.model_dump(mode="json")
    raise TypeError(f"{type(value).__name__} has no JSON form")


def _from_builtins(target: type, value: Any) -> Any:
    if (model := _pydantic_model()) is not None and issubclass(target, model):
        return target.model_validate(value)  # type: ignore[attr-defined]  # a pydantic model, which core doesn't depend on
    raise TypeError(f"JSON can't be decoded into a {target.__name__}")


def _schema_of(target: type) -> dict[str, Any]:
    if (model := _pydantic_model()) is not None and issubclass(target, model):
        schema: dict[str, Any] = target.model_json_schema()  # type: ignore[attr-defined]  # a pydantic model, which core doesn't depend on
        return schema
    raise TypeError(f"{target.__name__} has no JSON form")


def _refuse_non_finite(value: Any) -> None:
    """Raise `ValueError` if a float in there is no number."""
    if isinstance(value, float):
        if not math.isfinite(value):
            raise ValueError(f"holds {value}, which JSON can't carry")
    elif (model := _pydantic_model()) is not None and isinstance(value, model):
        _refuse_non_finite(value.model_dump(mode="python"))
    elif isinstance(value, dict):
        for key, item in value.items():
            _refuse_non_finite(key)
            _refuse_non_finite(item)
    elif isinstance(value, (list, tuple, set, frozenset)):
        for item in value:
            _refuse_non_finite(item)
    elif (fields := _field_names(value)) is not None:
        for name in fields:
            _refuse_non_finite(getattr(value, name, None))


def _field_names(value: Any) -> tuple[str, ...] | None:
    if isinstance(value, msgspec.Struct):
        return value.__struct_fields__
    if (fields := getattr(value, "__dataclass_fields__", None)) is not None:
        return tuple(fields)
    if (attributes := getattr(type(value), "__attrs_attrs__", None)) is not None:
        return tuple(attribute.name for attribute in attributes)
    return None


def _without_prose(schema: Any) -> Any:
    """The schema without what is written for readers: docstrings don't change a shape."""
    if isinstance(schema, dict):
        return {
            key: _without_prose(item)
            for key, item in schema.items()
            if not (key in _ANNOTATIONS and isinstance(item, str))
        }
    if isinstance(schema, list):
        return [_without_prose(item) for item in schema]
    return schema
