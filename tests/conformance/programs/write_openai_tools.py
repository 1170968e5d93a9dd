"""Write function lists with OpenAI's own helpers, in both shapes; print their names.

write_openai_tools.py FOLDER
"""

import json
import sys
from pathlib import Path

import openai
from pydantic import BaseModel, Field


class GetWeather(BaseModel):
    """Get the weather of a city. Temperatures are in degrees Celsius."""

    city: str = Field(description="Name of the city.")
    days: int = 1


class BookTable(BaseModel):
    """Reserve a table in a restaurant."""

    guests: int


def main(folder: Path) -> None:
    chat = [openai.pydantic_function_tool(each) for each in (GetWeather, BookTable)]
    chat.append(openai.pydantic_function_tool(GetWeather, name="wetter_heute", description="今天"))
    responses = [{"type": "function", **each["function"]} for each in chat]
    responses.append({"type": "web_search"})
    (folder / "chat.json").write_text(json.dumps(chat))
    (folder / "responses.json").write_text(json.dumps({"tools": responses}))
    print(json.dumps([each["function"]["name"] for each in chat]))


main(Path(sys.argv[1]))
