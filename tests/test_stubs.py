"""The .pyi files agree with the modules: names, parameters, and which are optional."""

import ast
import importlib
import inspect
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
STUBS = sorted(
    path.relative_to(ROOT)
    for path in (ROOT / "cypar").rglob("*.pyi")
    if path.name != "__init__.pyi"  # re-exports: see test_import
)
COMPILED = sorted(path.relative_to(ROOT) for path in (ROOT / "cypar").rglob("*.pyx"))


def load(path):
    return importlib.import_module(".".join(path.with_suffix("").parts))


def public(nodes, *types):
    return [
        node
        for node in nodes
        if isinstance(node, types) and not node.name.startswith("_")
    ]


def functions_of(path):
    """Yield (stub of a function or method, its owner at run time)."""
    module = load(path)
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    for function in public(body, ast.FunctionDef):
        yield function, module
    for cls in public(body, ast.ClassDef):
        owner = getattr(module, cls.name)
        for method in cls.body:
            if isinstance(method, ast.FunctionDef):
                yield method, owner


def parameters_of_stub(function):
    """Return [(name, may be left out)] as the stub has it."""
    args = function.args
    positional = [*args.posonlyargs, *args.args]
    n_required = len(positional) - len(args.defaults)
    return [
        *((arg.arg, i >= n_required) for i, arg in enumerate(positional)),
        *((f"*{arg.arg}", True) for arg in [args.vararg] if arg),
        *(
            (arg.arg, default is not None)
            for arg, default in zip(args.kwonlyargs, args.kw_defaults, strict=True)
        ),
        *((f"**{arg.arg}", True) for arg in [args.kwarg] if arg),
    ]


def parameters_of_object(function):
    """Return [(name, may be left out)] as the object itself has it."""
    prefixes = {inspect.Parameter.VAR_POSITIONAL: "*"}
    prefixes[inspect.Parameter.VAR_KEYWORD] = "**"
    return [
        (
            prefixes.get(parameter.kind, "") + parameter.name,
            parameter.kind in prefixes or parameter.default is not parameter.empty,
        )
        for parameter in inspect.signature(function).parameters.values()
    ]


def decorators(function):
    return {getattr(node, "id", None) for node in function.decorator_list}


@pytest.mark.parametrize("path", STUBS, ids=str)
def test_names_in_stubs_exist(path):
    body = ast.parse((ROOT / path).read_text(encoding="utf-8")).body
    module = load(path)
    for node in public(body, ast.FunctionDef, ast.ClassDef):
        assert hasattr(module, node.name)
    for function, owner in functions_of(path):
        assert hasattr(owner, function.name), f"{owner} has no {function.name}"


@pytest.mark.parametrize("path", STUBS, ids=str)
def test_parameters_in_stubs_are_right(path):
    for function, owner in functions_of(path):
        if decorators(function) & {"property", "overload"}:
            continue  # no signature; an overload may ask for what has a default
        try:
            actual = parameters_of_object(getattr(owner, function.name))
        except ValueError:
            continue  # a C slot such as __init__ of a cdef class has no signature
        if [name for name, _ in actual][-2:] == ["*args", "**kwargs"]:
            continue  # inherited from object, which takes anything
        assert parameters_of_stub(function) == actual, (owner, function.name)


@pytest.mark.parametrize("path", STUBS, ids=str)
def test_overloads_have_all_parameters(path):
    for function, owner in functions_of(path):
        if "overload" in decorators(function):
            stub = [name for name, _ in parameters_of_stub(function)]
            actual = parameters_of_object(getattr(owner, function.name))
            assert stub == [name for name, _ in actual]


# ---- compiled modules ---------------------------------------------------------


def names_in(body):
    """Return the public names that a stub, or a class in it, declares."""
    names = {node.name for node in public(body, ast.FunctionDef, ast.ClassDef)}
    targets = [node.target for node in body if isinstance(node, ast.AnnAssign)]
    names |= {target.id for target in targets if isinstance(target, ast.Name)}
    return {name for name in names if not name.startswith("_")}


def own_names(module):
    """Return the public names that a module defines, not those it imports."""
    return {
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and not inspect.ismodule(value)
        and getattr(value, "__module__", module.__name__) == module.__name__
    }


@pytest.mark.parametrize("path", COMPILED, ids=str)
def test_stubs_of_compiled_modules_have_all_names(path):
    stub = path.with_suffix(".pyi")
    assert (ROOT / stub).exists()
    body = ast.parse((ROOT / stub).read_text(encoding="utf-8")).body
    module = load(path)
    assert names_in(body) == own_names(module)
    for cls in public(body, ast.ClassDef):
        members = {
            name for name in vars(getattr(module, cls.name)) if not name.startswith("_")
        }
        assert names_in(cls.body) == members, cls.name
