"""``state_dict`` and ``load_state_dict``: PyTorch's protocol, with a load that changes all or nothing."""

import functools
import threading
import warnings
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import jax
import numpy as np

from jaxmodules._device import NO_DATA, beside, lacks_data, move, place_of
from jaxmodules._keys import ATOMS, restorer
from jaxmodules._tracing import epoch
from jaxmodules.nn._writable import copy_array, to_array, unbox
from jaxmodules.nn.modules._attributes import DICTS
from jaxmodules.nn.parameter import Parameter, is_lazy

EXTRA_STATE = "_extra_state"


class IncompatibleKeys(NamedTuple):
    """The keys that a ``load_state_dict`` did not find, and those it could not place."""

    missing_keys: list[str]
    unexpected_keys: list[str]

    def __repr__(self) -> str:
        if not self.missing_keys and not self.unexpected_keys:
            return "<All keys matched successfully>"
        return f"_IncompatibleKeys(missing_keys={self.missing_keys!r}, unexpected_keys={self.unexpected_keys!r})"

    __str__ = __repr__


class LoadPreHook:
    """A load_state_dict pre-hook that may take the module it is registered on as its first argument."""

    compared_by_content = True

    def __init__(self, hook: Callable[..., Any], module: Any = None) -> None:
        self.hook = hook
        self.module = None if module is None else weakref.ref(module)
        functools.update_wrapper(self, hook)

    def __call__(self, *args: Any) -> Any:
        return self.hook(*args) if self.module is None else self.hook(self.module(), *args)

    def __getstate__(self) -> dict[str, Any]:
        return {"hook": self.hook, "module": None if self.module is None else self.module()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["hook"], state["module"])


def positional(args: tuple[Any, ...], destination: Any, prefix: str, keep_vars: bool) -> tuple[Any, str, bool]:
    """Return ``destination``, ``prefix`` and ``keep_vars`` where some came by position, which is deprecated."""
    warnings.warn(
        "Positional args are being deprecated, use kwargs instead. Refer to"
        " https://pytorch.org/docs/main/generated/torch.nn.Module.html#torch.nn.Module.state_dict for details.",
        FutureWarning,
        stacklevel=3,
    )
    given = dict(zip(("destination", "prefix", "keep_vars"), args, strict=False))
    return (
        given["destination"] if destination is None else destination,
        given.get("prefix", "") if prefix == "" else prefix,
        given.get("keep_vars", False) if keep_vars is False else keep_vars,
    )


def build(module: Any, destination: Any, prefix: str, keep_vars: bool) -> Any:
    """Return the state of ``module`` and its children in ``destination``."""
    if destination is None:
        destination = OrderedDict()
        destination._metadata = OrderedDict()
    local_metadata = {"version": module._version}
    if hasattr(destination, "_metadata"):
        destination._metadata[prefix[:-1]] = local_metadata
    for hook in module._state_dict_pre_hooks.values():
        hook(module, prefix, keep_vars)
    module._save_to_state_dict(destination, prefix, keep_vars)
    for name, child in module._modules.items():
        if child is not None:
            child.state_dict(destination=destination, prefix=f"{prefix}{name}.", keep_vars=keep_vars)
    for hook in module._state_dict_hooks.values():
        output = hook(module, destination, prefix, local_metadata)
        if not getattr(hook, "_from_public_api", False):
            destination = destination if output is None else output
        elif output is not None:
            raise RuntimeError("state_dict post-hook must return None")
    return destination


def save_own(module: Any, destination: Any, prefix: str, keep_vars: bool, has_extra: bool) -> None:
    """Put the parameters, persistent buffers and extra state of one module into ``destination``."""
    for name, parameter in module._parameters.items():
        if parameter is not None:
            destination[prefix + name] = parameter if keep_vars or is_lazy(parameter) else parameter.value
    for name, buffer in module._buffers.items():
        if buffer is not None and name not in module._non_persistent_buffers_set:
            destination[prefix + name] = buffer
    if has_extra:
        destination[prefix + EXTRA_STATE] = module.get_extra_state()


def load(root: Any, state_dict: Mapping[str, Any], strict: bool, assign: bool) -> IncompatibleKeys:
    """Load ``state_dict`` into ``root`` and its children, or raise one error and leave them as they were."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"Expected state_dict to be dict-like, got {type(state_dict)}.")
    progress = _Load(root, getattr(state_dict, "_metadata", None), assign)
    missing, unexpected, errors = progress.missing, progress.unexpected, progress.errors
    copied: Any = OrderedDict(state_dict)
    if progress.metadata is not None:
        copied._metadata = progress.metadata
    outer, _loading.held = _loading.held, progress.before.held()
    try:
        progress.visit(root, copied, "")
        if _loading.landing is not None:
            tied = _loading.landing.tied()
            missing[:] = [key for key in missing if key not in tied]
        if errors or (strict and (missing or unexpected)):
            raise loading_error(root, missing if strict else [], unexpected if strict else [], errors)
    except BaseException:
        progress.before.restore()
        raise
    finally:
        _loading.held = outer
    return IncompatibleKeys(missing, unexpected)


def loading_error(
    target: Any, missing: Sequence[str], unexpected: Sequence[str], others: Sequence[str]
) -> RuntimeError:
    """Return the error of a load, with PyTorch's report of names that do not match and of what else is wrong."""
    lines = [
        "{} key(s) in state_dict: {}. ".format(kind, ", ".join(f'"{name}"' for name in names))
        for kind, names in (("Missing", missing), ("Unexpected", unexpected))
        if names
    ]
    listed = "\n\t".join([*lines, *others])
    return RuntimeError(f"Error(s) in loading state_dict for {type(target).__name__}:\n\t{listed}")


def size_mismatch(key: str, given: Any, present: Any) -> str:
    """Say in PyTorch's words that an array does not fit where it is to go."""
    return (
        f"size mismatch for {key}: copying a param with shape {_size(given.shape)} from checkpoint,"
        f" the shape in current model is {_size(present.shape)}."
    )


class _Load:
    """One load on its way through the modules."""

    def __init__(self, root: Any, metadata: Any, assign: bool) -> None:
        self.metadata = metadata
        self.assign = assign
        self.missing: list[str] = []
        self.unexpected: list[str] = []
        self.errors: list[str] = []
        self.before = Snapshot(root)

    def visit(self, module: Any, local: Any, prefix: str) -> None:
        """Load what is below ``prefix`` into a module and its children, with their hooks."""
        local_metadata = {} if self.metadata is None else dict(self.metadata.get(prefix[:-1], {}))
        if self.assign:
            local_metadata["assign_to_params_buffers"] = True
        if prefix + EXTRA_STATE in local:
            self.before.note_extra_state(module)
        module._load_from_state_dict(local, prefix, local_metadata, True, self.missing, self.unexpected, self.errors)
        for name, child in module._modules.items():
            if child is not None:
                child_prefix = f"{prefix}{name}."
                self.visit(child, {k: v for k, v in local.items() if k.startswith(child_prefix)}, child_prefix)
        incompatible = IncompatibleKeys(self.missing, self.unexpected)
        for hook in module._load_state_dict_post_hooks.values():
            if hook(module, incompatible) is not None:
                raise AssertionError(
                    "Hooks registered with ``register_load_state_dict_post_hook`` are not expected to return new"
                    " values, if incompatible_keys need to be modified, it should be done inplace."
                )


class Landing:
    """Decides what a load makes of the arrays, where not PyTorch's rule: as what they take the place of is.

    Every array is put into the box that is there, and one on the meta device is filled as well. A key is not missing
    if its parameter is tied to one that was found.

    Args:
        choose: takes the key, what is in its place and what comes; returns a dtype and a device or Sharding, either
            ``None`` for that of what is in its place.
    """

    def __init__(self, choose: Callable[[str, Any, Any], tuple[Any, Any]]) -> None:
        self.choose = choose
        self.filled: set[int] = set()
        self.absent: dict[str, Any] = {}

    def tied(self) -> set[str]:
        """Return the keys that were absent, of parameters that were found under another."""
        return {key for key, box in self.absent.items() if id(box) in self.filled}


@contextmanager
def landing(choose: Callable[[str, Any, Any], tuple[Any, Any]] = lambda *_: (None, None)) -> Iterator[None]:
    """Let a :class:`Landing` decide in the loads of this thread."""
    outer, _loading.landing = _loading.landing, Landing(choose)
    try:
        yield
    finally:
        _loading.landing = outer


class _Loading(threading.local):
    held: Mapping[Any, Any] = {}  # what each place held when the load of this thread began
    landing: Landing | None = None


_loading = _Loading()


class Snapshot:
    """What a load, and the user's code that takes part in it, can change, as it was before; and so for a call."""

    def __init__(self, root: Any) -> None:
        seen: set[int] = set()
        self.modules = [(m, dict(vars(m)), _registries(m)) for m in root.modules()]
        self.boxes = [(p, type(p), p._value, dict(vars(p))) for p in root.parameters()]
        self.contents = [
            restorer(value, seen)
            for _, attributes, _ in self.modules
            for name, value in attributes.items()
            if type(value) not in ATOMS and (name not in DICTS or isinstance(value, set))
        ]
        self.extra: list[tuple[Any, Any]] = []

    def held(self) -> dict[Any, Any]:
        """Return the array of every place."""
        buffers = {(id(m._buffers), name): m._buffers[name] for m, _, _ in self.modules for name in m._buffers}
        return buffers | {id(box): value for box, _, value, _ in self.boxes}

    def note_extra_state(self, module: Any) -> None:
        """Remember the extra state of a module that is about to be given another, if it can be had."""
        if module._jm_has_extra_state() and module._jm_takes_extra_state():
            with suppress(Exception):
                self.extra.append((module, module.get_extra_state()))

    def restore(self) -> None:
        """Put everything back."""
        for module, state in self.extra:  # it may lie where attributes don't show it
            with suppress(Exception):
                module.set_extra_state(state)
        for module, attributes, registries in self.modules:
            own = vars(module)
            own.clear()
            own.update(attributes)
            for registry, items in registries:
                if list(registry) != list(items) or any(registry[k] is not items[k] for k in items):
                    registry.clear()
                    for name, value in items.items():
                        registry[name] = value
        for function in self.contents:
            function()
        for box, kind, value, attributes in self.boxes:
            if type(box) is not kind:  # a lazy one has found its shape
                box.__class__ = kind
            box._value = value
            vars(box).clear()
            vars(box).update(attributes)
        epoch.count += 1


def _registries(module: Any) -> list[tuple[Any, dict[Any, Any]]]:
    return [(value, dict(value)) for name, value in vars(module).items() if name in DICTS and isinstance(value, dict)]


def no_extra_state(name: str) -> RuntimeError:
    """Return the error of a module that has no extra state."""
    return RuntimeError(
        f"Reached a code path in Module.{name}() that should never be called: a module with extra state overrides it"
    )


def _is_array_like(value: Any) -> bool:
    return (
        isinstance(value, jax.Array | np.ndarray | np.generic | jax.ShapeDtypeStruct)
        or hasattr(value, "__jax_array__")
        or hasattr(value, "detach")
    )


def load_own(
    module: Any, state_dict: Mapping[str, Any], prefix: str, local_metadata: Mapping[str, Any], error_msgs: list[str]
) -> tuple[list[str], list[str]]:
    """Load the parameters, persistent buffers and extra state of one module; return its missing and unexpected keys."""
    assign = local_metadata.get("assign_to_params_buffers", False)
    missing: list[str] = []
    persistent = {k: b for k, b in module._buffers.items() if k not in module._non_persistent_buffers_set}
    own = {k: v for k, v in (*module._parameters.items(), *persistent.items()) if v is not None}
    for name, current in own.items():
        key = prefix + name
        if key not in state_dict:
            missing.append(key)
            if _loading.landing is not None and isinstance(current, Parameter):
                _loading.landing.absent[key] = current
            continue
        new = state_dict[key]
        if is_lazy(current) and is_lazy(new):
            continue
        if not _is_array_like(new):
            error_msgs.append(
                f'While copying the parameter named "{key}", expected Tensor or Tensor-like object from checkpoint'
                f" but received {type(new)}"
            )
            continue
        if len(current.shape) == 0 and tuple(new.shape) == (1,):
            new = unbox(new)[0]  # scalars were vectors of one element in PyTorch 0.3
        if tuple(new.shape) != tuple(current.shape):
            error_msgs.append(size_mismatch(key, new, current))
            continue
        if not assign and _loading.landing is None and lacks_data(current) and not lacks_data(new):
            warnings.warn(_NOT_COPIED.format(key), stacklevel=2)
            continue
        try:
            _put(module, name, key, current, new, assign)
        except Exception as error:
            error_msgs.append(
                f'While copying the parameter named "{key}", whose dimensions in the model are'
                f" {_size(current.shape)} and whose dimensions in the checkpoint are {_size(new.shape)},"
                f" an exception occurred : {error.args}."
            )
    extra = prefix + EXTRA_STATE
    has_unplaced_extra = extra in state_dict and not module._jm_takes_extra_state()
    if module._jm_takes_extra_state():
        if extra in state_dict:
            module.set_extra_state(state_dict[extra])
        else:
            missing.append(extra)
    unexpected = _unexpected(module, state_dict, prefix, own)  # after the extra state, which may add children
    return missing, [extra, *unexpected] if has_unplaced_extra else unexpected


_NOT_COPIED = (
    "for {}: copying from a non-meta parameter in the checkpoint to a meta parameter in the current model, which is a"
    " no-op. (Did you mean to pass `assign=True` to assign items in the state dictionary to their corresponding key in"
    " the module instead of copying them in place?)"
)


def _size(shape: Any) -> str:
    return f"torch.Size({list(shape)})"


def _put(module: Any, name: str, key: str, current: Any, new: Any, assign: bool) -> None:
    is_parameter = isinstance(current, Parameter)
    if assign:
        if is_parameter and isinstance(new, Parameter):
            new.requires_grad_(current.requires_grad)
        elif is_parameter:
            new = Parameter(to_array(new), requires_grad=current.requires_grad)
        elif not isinstance(new, Parameter):
            new = to_array(new)
        setattr(module, name, new)
        return
    if lacks_data(new):
        if not lacks_data(current):
            raise NotImplementedError(NO_DATA)
        return
    old = unbox(current) if not is_parameter else current._value
    held = _loading.held.get(id(current) if is_parameter else (id(module._buffers), name))
    if held is not None and held is unbox(new) and held is not old:
        return  # a state dict of this model's own, whose entries PyTorch would have seen change with the parameter
    dtype, place = (None, None) if _loading.landing is None else _loading.landing.choose(key, current, new)
    # A copy of its own: donating the model's arrays must not delete the checkpoint's.
    array = to_array(new, current.dtype if dtype is None else dtype, place_of(old) if place is None else place)
    if array is unbox(new):
        array = copy_array(array)
    array = beside(array, old) if place is None else move(array, place)
    if _loading.landing is not None:
        _loading.landing.filled.add(id(current))
    if is_parameter:
        current.value = array
    else:
        module._buffers[name] = array


def _unexpected(module: Any, state_dict: Mapping[str, Any], prefix: str, own: Mapping[str, Any]) -> list[str]:
    """Return the keys under ``prefix`` that name nothing in the module."""
    unexpected = []
    for key in state_dict:
        if key.startswith(prefix) and key != prefix + EXTRA_STATE:
            head, *rest = key[len(prefix) :].split(".", 1)
            if head not in (module._modules if rest else own):
                unexpected.append(key)
    return unexpected
