"""Programs that run where there is only JAX: the module's code and, if asked for, its weights are in them."""

import contextlib
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import numpy as np
import safetensors
import safetensors.flax

from jaxmodules._device import is_meta
from jaxmodules._files import whole
from jaxmodules.export._function import Function, Weights, constants, spec_of, trace
from jaxmodules.random import current_generator

_MAGIC = b"jaxmodules-export-1\n"
_LIMIT = 2**31 - 2**20  # flatbuffers have offsets of 31 bits
_PLATFORMS = {"cpu": "cpu", "cuda": "cuda", "gpu": "cuda", "rocm": "rocm", "tpu": "tpu"}


def export(
    mod: Callable[..., Any],
    args: Any = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    dynamic_shapes: Any = None,
    weights: Weights = "embedded",
    platforms: Sequence[str] | None = None,
) -> "ExportedProgram":
    """Compile a module or a function to a program that needs neither its code nor this library: StableHLO.

    The program does what ``mod`` does at this moment: flags, attributes and hooks are fixed. So are arguments that are
    no arrays (numbers, strings, ``None``, modules): the program does not take them. Named tuples become tuples.

    With ``weights="embedded"`` the arrays of modules are constants of the program, which is called as ``mod`` is. With
    ``"inputs"`` they come first, as a dict by dotted name, and can be other ones at every call. Both are for what
    leaves the state alone, such as a module after ``eval()``. With ``"inputs+outputs"`` the program may write state and
    draw random numbers, and returns the output and a dict of the arrays that are new: a whole training step can be
    exported, ``state |= new`` after each call; the random key is ``"rng"``. In functions names start with that of the
    argument or variable. What is tied has one name, the first.

    Args:
        mod: a module, or a function of arrays, modules and optimizers.
        args: example arguments, of which only shapes and dtypes count: a tuple, or the only one. A
            :class:`jax.ShapeDtypeStruct` does for an array.
        kwargs: example keyword arguments.
        dynamic_shapes: names of sizes that stay open, as for :func:`torch.export.export`: a tuple with an entry for
            each of ``args``, or a dict by their names. An entry is a dict of names by axis, names or ``None`` for all
            axes, or JAX's notation, ``"batch, 3, 2*h, 2*w"``; in containers as the arguments are. Sizes of one name
            are equal; a :class:`Dim` in the place of a name gives it bounds.
        weights: whether arrays are constants, inputs, or inputs and outputs.
        platforms: some of ``"cpu"``, ``"cuda"``, ``"rocm"`` and ``"tpu"``, none of which need be here; by default the
            one that is.

    Returns:
        The program, to be called or saved.

    Raises:
        TypeError: if ``mod`` is not callable, or it takes or returns what is no array.
        ValueError: if ``dynamic_shapes``, ``weights`` or ``platforms`` is none of these.
        RuntimeError: if the program would have to write state or draw random numbers; for lazy modules that have not
            been called.
        NotImplementedError: if weights that are to be embedded are on the meta device.

    Examples:
        >>> import jaxmodules as jm, jax.numpy as jnp
        >>> program = jm.export(jm.nn.Linear(3, 2), jnp.ones((4, 3)), dynamic_shapes=({0: "batch"},))
        >>> program
        ExportedProgram(Linear: (float32[batch,3]) -> float32[batch,2] for cpu)
        >>> program(jnp.ones((7, 3))).shape
        (7, 2)
    """
    if weights not in get_args(Weights):
        raise ValueError(f"weights must be one of {', '.join(map(repr, get_args(Weights)))}, got {weights!r}")
    function = trace(mod, args, kwargs, dynamic_shapes)
    function.check_pure(weights)
    state = {} if weights == "embedded" else dict(function.state)
    if weights == "inputs+outputs" and function.rng:
        state[function.rng] = jnp.asarray(current_generator()._key.value)
    given = (function.args, function.kwargs)
    specs = given if weights == "embedded" else (({n: spec_of(v) for n, v in state.items()}, *given[0]), given[1])
    program = jax.jit(_form(function, weights))
    return ExportedProgram(
        jax.export.export(program, platforms=_parse_platforms(platforms))(*specs[0], **specs[1]), state, weights
    )


def _form(function: Function, weights: Weights) -> Callable[..., Any]:
    """Return the function with the arguments and outputs of its program."""
    no_key = np.zeros(2, np.uint32)
    run = jax.jit(function)

    def embedded(*args: Any, **kwargs: Any) -> Any:
        return run(no_key, arrays, args, kwargs)[0]

    def inputs(state: dict[str, Any], /, *args: Any, **kwargs: Any) -> Any:
        key = state[function.rng] if function.rng else no_key
        out, new = run(key, [state[name] for name in function.state], args, kwargs)
        return (out, new) if weights == "inputs+outputs" else out

    arrays = constants(function.state) if weights == "embedded" else []
    form = embedded if weights == "embedded" else inputs
    form.__name__ = form.__qualname__ = function.name
    return form


def _parse_platforms(platforms: Sequence[str] | None) -> list[str] | None:
    if platforms is None:
        return None
    given = [platforms] if isinstance(platforms, str) else list(platforms)
    if not given or any(name not in _PLATFORMS for name in given):
        raise ValueError(f"platforms must be some of {', '.join(_PLATFORMS)}, got {platforms!r}")
    return list(dict.fromkeys(_PLATFORMS[name] for name in given))


class ExportedProgram:
    """A program of arrays that :func:`export` made, or :func:`load` read.

    It is called as the module was, after a dict of the arrays by name if these are inputs. JAX can trace and
    differentiate it (a loaded one as often as ``vjp_order`` was when it was saved). The counterpart of
    :class:`torch.export.ExportedProgram`.

    Attributes:
        exported: what JAX makes of it, a :class:`jax.export.Exported`.
        state_dict: the arrays to call it with, by name; empty where they are constants of the program.
        weights: whether arrays are constants, inputs, or inputs and outputs.
    """

    def __init__(self, exported: jax.export.Exported, state_dict: dict[str, Any], weights: Weights) -> None:
        self.exported = exported
        self.state_dict = state_dict
        self.weights: Weights = weights
        self._call = jax.jit(exported.call)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self.weights != "embedded" and args and isinstance(args[0], Mapping):
            args = (dict(args[0]), *args[1:])  # a state_dict is an OrderedDict, which JAX tells from a dict
        return self._call(*args, **kwargs)

    def __repr__(self) -> str:
        args, kwargs = jax.tree.unflatten(self.exported.in_tree, [_spell(aval) for aval in self.exported.in_avals])
        if self.weights != "embedded":
            args = (f"{{{len(args[0])} arrays}}", *args[1:])
        given = [*map(_join, args), *(f"{name}={_join(arg)}" for name, arg in kwargs.items())]
        out = jax.tree.unflatten(self.exported.out_tree, [_spell(aval) for aval in self.exported.out_avals])
        if self.weights == "inputs+outputs":
            out = out[0], f"{{{len(out[1])} arrays}}"
        where = ", ".join(self.exported.platforms)
        return f"ExportedProgram({self.exported.fun_name}: ({', '.join(given)}) -> {_join(out)} for {where})"

    def mlir_module(self) -> str:
        """Return the text of the program, in StableHLO."""
        return self.exported.mlir_module()

    def save(self, path: str | os.PathLike[str], *, vjp_order: int = 0) -> None:
        """Save the program to a file that JAX alone can run; it appears whole or not at all.

        A process that has JAX and flatbuffers, and not this library, calls it like this::

            import jax
            program = jax.export.deserialize(open("net.jax", "rb").read())
            y = jax.jit(program.call)(x)

        Where arrays are inputs, they are saved beside it, in ``net.jax.safetensors``::

            from safetensors.flax import load_file
            y = jax.jit(program.call)(load_file("net.jax.safetensors"), x)

        Args:
            path: the file.
            vjp_order: how many times it can be differentiated in reverse mode once it is loaded.

        Raises:
            ImportError: if flatbuffers is missing.
            ValueError: if the program takes 2 GB, or takes or returns containers of a class that is not known to
                :func:`jax.export.register_pytree_node_serialization`.
            OSError: if a file cannot be written.
        """
        if len(self.exported.mlir_module_serialized) > _LIMIT:
            raise ValueError(
                f"the program takes {len(self.exported.mlir_module_serialized):,} bytes, more than a file can hold"
                f" ({_LIMIT:,}): export it with weights='inputs'"
            )
        try:
            data = self.exported.serialize(vjp_order=vjp_order)
        except ImportError as error:
            raise ImportError("saving a program needs flatbuffers: pip install 'jaxmodules[export]'") from error
        end = json.dumps({"weights": self.weights}).encode()
        end += len(end).to_bytes(4, "little")
        with contextlib.ExitStack() as stack:
            program = stack.enter_context(whole(path))
            if self.state_dict and not any(map(is_meta, self.state_dict.values())):
                arrays = {name: jnp.asarray(value) for name, value in self.state_dict.items()}
                safetensors.flax.save_file(arrays, stack.enter_context(whole(_beside(path))))
            with open(program, "wb") as file:
                file.writelines([data, end, _digest(data, end), _MAGIC])


def load(path: str | os.PathLike[str]) -> ExportedProgram:
    """Load a program that :meth:`ExportedProgram.save` has saved, and the arrays that were saved beside it.

    Args:
        path: the file.

    Raises:
        ImportError: if flatbuffers is missing.
        ValueError: if the file is damaged, or of another kind.
        OSError: if it cannot be read.

    Examples:
        >>> import jaxmodules as jm, jax.numpy as jnp, tempfile
        >>> path = tempfile.mkdtemp() + "/net.jax"
        >>> jm.export(jm.nn.Linear(3, 2), jnp.ones((4, 3))).save(path)
        >>> load(path)
        ExportedProgram(Linear: (float32[4,3]) -> float32[4,2] for cpu)
    """
    with open(path, "rb") as file:
        content = file.read()
    exported, weights = _parse(content, path)
    state: dict[str, Any] = {}
    if weights != "embedded" and _beside(path).exists():
        try:
            state = safetensors.flax.load_file(_beside(path))
        except safetensors.SafetensorError as error:
            raise ValueError(f"cannot load '{_beside(path)}', the arrays of '{path}': {error}") from error
        _check_names(exported, state, path)
    return ExportedProgram(exported, state, weights)


def _parse(content: bytes, path: Any) -> tuple[jax.export.Exported, Weights]:
    """Return the program in a file, and where its arrays are."""
    start = len(content) - len(_MAGIC) - 32
    if not content.endswith(_MAGIC) or start < 4 or _digest(memoryview(content)[:start]) != content[start:][:32]:
        raise ValueError(
            f"cannot load '{path}': expected a program that ExportedProgram.save has written, but"
            f" these {len(content):,} bytes are truncated, damaged or of another kind: copy or export it again"
            " (jax.export.deserialize reads what JAX has serialized)"
        )
    length = int.from_bytes(content[start - 4 : start], "little")
    try:
        exported = jax.export.deserialize(bytearray(content))  # which does not mind what comes after
    except ImportError as error:
        raise ImportError("loading a program needs flatbuffers: pip install 'jaxmodules[export]'") from error
    return exported, json.loads(content[start - 4 - length : start - 4])["weights"]


def _check_names(exported: jax.export.Exported, state: Mapping[str, Any], path: Any) -> None:
    """Raise unless the arrays beside a program are those it takes."""
    (expected, *_), _ = jax.tree.unflatten(exported.in_tree, exported.in_avals)
    problems = [f"{name} is missing" for name in sorted(expected.keys() - state.keys())]
    problems += [f"{name} is not taken" for name in sorted(state.keys() - expected.keys())]
    problems += [
        f"{name} is {_spell(state[name])}, expected {_spell(aval)}"
        for name, aval in expected.items()
        if name in state and _spell(state[name]) != _spell(aval)
    ]
    if problems:
        raise ValueError(
            f"the arrays in '{_beside(path)}' are not those of '{path}': {'; '.join(problems[:5])}: save it again, or"
            " remove them and call the program with others"
        )


def _digest(*parts: bytes | bytearray | memoryview) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.digest()


def _beside(path: str | os.PathLike[str]) -> Path:
    """Return the file of a program's arrays."""
    return Path(f"{os.fspath(path)}.safetensors")


def _spell(aval: Any) -> str:
    return f"{aval.dtype}[{','.join(map(str, aval.shape))}]"


def _join(tree: Any) -> str:
    """Return a pytree of strings as one, with its brackets."""
    return str(tree).replace("'", "")
