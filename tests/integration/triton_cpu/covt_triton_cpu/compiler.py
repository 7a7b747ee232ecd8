"""The compiler, which Triton wants to know of and never calls in the interpreter."""

from __future__ import annotations

from types import ModuleType

from triton.backends.compiler import BaseBackend, GPUTarget


class InterpreterBackend(BaseBackend):
    """Supports the target `cpu`, for the interpreter."""

    @staticmethod
    def supports_target(target: GPUTarget) -> bool:
        return target.backend == "cpu"

    def hash(self) -> str:
        return "interpreter"

    def parse_options(self, options: dict[str, object]) -> object:
        raise NotImplementedError("the interpreter compiles nothing")

    def add_stages(self, stages: dict[str, object], options: object) -> None:
        raise NotImplementedError("the interpreter compiles nothing")

    def load_dialects(self, context: object) -> None:
        raise NotImplementedError("the interpreter compiles nothing")

    def get_module_map(self) -> dict[str, ModuleType]:
        return {}
