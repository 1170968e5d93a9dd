"""Bodies of ``POST /v1/decisions`` and ``POST /v1/systemone``, as their clients send and read them.

Unknown fields are ignored, as these protocols gain some with every release of their clients;
fields that would change an answer, such as images, are refused.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    StrictBool,
    StrictStr,
    model_validator,
)

from synaptoroute.questions import CHOICES_MAX, CHOICES_MIN, QUESTIONS_MAX

LEVELS_MAX: Final = 10
NAME_CHARACTERS_MAX: Final = 256
MODEL_CHARACTERS_MAX: Final = 256
_MEDIA: Final = ("images", "assets", "audio", "videos")

JsonText = Annotated[
    Any, Field(description="A string; of an object or an array its strings are read.")
]
ModelName = Annotated[
    StrictStr | None,
    Field(max_length=MODEL_CHARACTERS_MAX, description="Name of the route set or of an alias."),
]


def _has_letters(name: str) -> str:
    if not name.strip():
        raise ValueError("must not be blank")
    return name


OptionName = Annotated[
    StrictStr,
    Field(min_length=1, max_length=NAME_CHARACTERS_MAX),
    AfterValidator(_has_letters),
]


class _Request(BaseModel):
    model_config = ConfigDict(extra="ignore")

    @model_validator(mode="before")
    @classmethod
    def _refuse_media(cls, document: Any) -> Any:
        if isinstance(document, dict):
            for name in _MEDIA:
                if document.get(name):
                    raise ValueError(f"{name}: only text is read")
        return document


class _Question(BaseModel):
    model_config = ConfigDict(extra="ignore")

    instructions: JsonText = None


# --- OpenAI ------------------------------------------------------------------------------


class DecisionChoice(BaseModel):
    """An option. Descriptions of options that are routes are ignored."""

    model_config = ConfigDict(extra="ignore")

    value: StrictBool | OptionName
    description: JsonText = None


class DecisionChoiceQuestion(_Question):
    """Choose one of the options."""

    type: Literal["choice"]
    name: Annotated[StrictStr | None, Field(max_length=NAME_CHARACTERS_MAX)] = None
    choices: Annotated[list[DecisionChoice], Field(min_length=CHOICES_MIN, max_length=CHOICES_MAX)]

    @model_validator(mode="after")
    def _are_distinct(self) -> DecisionChoiceQuestion:
        if len({(type(each.value), each.value) for each in self.choices}) < len(self.choices):
            raise ValueError("the values of the choices must be distinct")
        return self


class DecisionPredicateQuestion(_Question):
    """Estimate how likely a statement is: answered where the instructions describe both sides."""

    type: Literal["predicate"]
    name: Annotated[StrictStr | None, Field(max_length=NAME_CHARACTERS_MAX)] = None


class DecisionLevel(BaseModel):
    model_config = ConfigDict(extra="ignore")

    label: OptionName
    description: JsonText = None


class DecisionScoreQuestion(_Question):
    """Rate the input against ordered levels."""

    type: Literal["score"]
    name: Annotated[StrictStr | None, Field(max_length=NAME_CHARACTERS_MAX)] = None
    levels: Annotated[list[DecisionLevel], Field(min_length=2, max_length=LEVELS_MAX)]


DecisionQuestion = Annotated[
    DecisionChoiceQuestion | DecisionPredicateQuestion | DecisionScoreQuestion,
    Field(discriminator="type"),
]


class DecisionRequest(_Request):
    """Questions about one input, in OpenAI's dialect."""

    model: ModelName = None
    input: Annotated[
        StrictStr | list[Any],
        Field(description="A text, or messages of which the last of a user is read."),
    ]
    questions: Annotated[list[DecisionQuestion], Field(min_length=1, max_length=QUESTIONS_MAX)]


class DecisionProbability(BaseModel):
    value: StrictBool | StrictStr
    probability: float


class DecisionPredicateAnswer(BaseModel):
    type: Literal["predicate"]
    name: str | None
    probability: float


class DecisionChoiceAnswer(BaseModel):
    """The chosen option, and how likely each is."""

    type: Literal["choice"]
    name: str | None
    choice: StrictBool | StrictStr
    confidence: float = Field(description="Probability that the choice is right.")
    probabilities: list[DecisionProbability] = Field(description="They add up to one.")


DecisionAnswer = Annotated[
    DecisionChoiceAnswer | DecisionPredicateAnswer, Field(discriminator="type")
]


class DecisionInputDetails(BaseModel):
    cached_tokens: int
    cache_write_tokens: int


class DecisionOutputDetails(BaseModel):
    reasoning_tokens: int


class DecisionUsage(BaseModel):
    """Tokens that the encoder's tokenizer made of the input and of options that are no routes."""

    input_tokens: int
    input_tokens_details: DecisionInputDetails
    output_tokens: int
    output_tokens_details: DecisionOutputDetails
    total_tokens: int


class DecisionResponse(BaseModel):
    object: Literal["decision"]
    model: str
    answers: list[DecisionAnswer]
    usage: DecisionUsage


class OpenAIErrorBody(BaseModel):
    message: str
    type: str
    param: str | None
    code: str


class OpenAIError(BaseModel):
    """An error in OpenAI's shape, with the code of the problem document."""

    error: OpenAIErrorBody


# --- System One --------------------------------------------------------------------------


class SystemOneChoice(_Question):
    """Choose one of the options. Criteria of options that are routes are ignored."""

    type: Literal["choice"]
    criteria: Annotated[
        dict[OptionName, JsonText], Field(min_length=CHOICES_MIN, max_length=CHOICES_MAX)
    ]


class SystemOneNoul(_Question):
    """Estimate how likely the answer is yes: answered where `criteria` describe both sides."""

    type: Literal["noul"]
    criteria: JsonText = None


class SystemOneScore(_Question):
    """Rate the state against ordered levels."""

    type: Literal["score"]
    criteria: Annotated[list[JsonText], Field(min_length=2, max_length=LEVELS_MAX)]


SystemOneQuestion = Annotated[
    SystemOneChoice | SystemOneNoul | SystemOneScore, Field(discriminator="type")
]


class SystemOneRequest(_Request):
    """Questions about one state, in the dialect of System One."""

    model: ModelName = None
    state: Annotated[
        StrictStr | dict[str, Any] | list[Any],
        Field(description="A text, an object or an array; see docs/decisions-api.md."),
    ]
    questions: Annotated[
        dict[Annotated[StrictStr, Field(min_length=1)], SystemOneQuestion],
        Field(min_length=1, max_length=QUESTIONS_MAX),
    ]


class SystemOneNoulAnswer(BaseModel):
    type: Literal["noul"]
    noul: float


class SystemOneChoiceAnswer(BaseModel):
    type: Literal["choice"]
    choice: str
    confidence: float = Field(description="Probability that the choice is right.")
    probabilities: dict[str, float] = Field(description="By option; they add up to one.")


SystemOneAnswer = Annotated[
    SystemOneChoiceAnswer | SystemOneNoulAnswer, Field(discriminator="type")
]


class SystemOneUsage(BaseModel):
    input_tokens: int
    output_tokens: int


class SystemOneResponse(BaseModel):
    model: str
    answers: dict[str, SystemOneAnswer]
    usage: SystemOneUsage
