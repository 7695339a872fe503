"""The dtypes of PyTorch, by the names that its files use."""

import jax.numpy as jnp
import numpy as np

DTYPES: dict[str, np.dtype] = {
    name: jnp.dtype(name)
    for name in (
        "bool", "int8", "uint8", "int16", "uint16", "int32", "uint32", "int64", "uint64",
        "float16", "bfloat16", "float32", "float64", "complex64", "complex128",
        "float8_e4m3fn", "float8_e5m2", "float8_e8m0fnu", "float8_e4m3fnuz", "float8_e5m2fnuz",
    )
}  # fmt: skip
"""The dtypes that both have; NumPy calls them the same."""

ALIASES = {
    "half": "float16", "float": "float32", "double": "float64", "short": "int16", "int": "int32", "long": "int64",
    "cfloat": "complex64", "cdouble": "complex128",
}  # fmt: skip

STORAGES: dict[str, str] = {
    "DoubleStorage": "float64", "FloatStorage": "float32", "HalfStorage": "float16", "BFloat16Storage": "bfloat16",
    "LongStorage": "int64", "IntStorage": "int32", "ShortStorage": "int16", "CharStorage": "int8",
    "ByteStorage": "uint8", "BoolStorage": "bool",
    "ComplexDoubleStorage": "complex128", "ComplexFloatStorage": "complex64",
}  # fmt: skip
"""The class of storage that stands for a dtype; what came after ``complex`` is written untyped, its dtype beside it."""

_QUANTIZED = "it is the dtype of quantized tensors: in torch, save tensor.dequantize()"
_PACKED = "its elements are smaller than a byte, and PyTorch computes nothing with it: in torch, unpack it first"

REFUSED: dict[str, str] = {
    "complex32": "JAX has no such dtype: in torch, save tensor.to(torch.complex64)",
    **dict.fromkeys(("qint8", "qint32", "quint8", "quint4x2", "quint2x4"), _QUANTIZED),
    **dict.fromkeys(("QInt8Storage", "QInt32Storage", "QUInt8Storage", "QUInt4x2Storage"), _QUANTIZED),
    "QUInt2x4Storage": _QUANTIZED,
    **dict.fromkeys(("bits8", "bits16", "bits1x8", "bits2x4", "bits4x2", "float4_e2m1fn_x2"), _PACKED),
    **dict.fromkeys([f"{sign}int{bits}" for sign in ("", "u") for bits in range(1, 8)], _PACKED),
}
"""Dtypes and storages of PyTorch that nothing here can hold, and why."""
